"""Settings of the quiz on features and of its scoring; nothing here imports torch."""

from dataclasses import dataclass

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import (
    require_given,
    require_integer,
    require_positive,
    require_positive_integer,
)


@dataclass(frozen=True, kw_only=True)
class QuizConfig:
    """Make a quiz on random features of a run: who has seen half of a feature's examples tells
    further ones from texts on which it is silent."""

    run: FilePath
    """Folder of the run, which has a feature index."""

    out: FilePath
    """Folder to write: a page, the questions for programs, and the key."""

    n: int = 200
    """Features, drawn at random from those that ever fired; fewer if no more have enough
    examples."""

    pairs: int = 10
    """Pairs of texts of each feature, one of which it fires on; guessing gets half of them."""

    seed: int = 0
    """Of every draw; the same seed gives the same quiz."""

    def __post_init__(self) -> None:
        for name in ("n", "pairs"):
            require_positive_integer(name, getattr(self, name))
        require_integer("seed", self.seed, least=0)


@dataclass(frozen=True, kw_only=True)
class QuizScoreConfig:
    """Score answers to a quiz: those in a file, or those of a language model that is asked."""

    quiz: FilePath
    """Folder of the quiz."""

    answers: FilePath | None = None
    """File of answers, as the page saves it."""

    endpoint: str | None = None
    """Address of an OpenAI-compatible server that is asked in place of a file, such as
    http://127.0.0.1:8000/v1."""

    model: str | None = None
    """Name of the model that is asked; by default the only one that the server has."""

    api_key_env: str | None = None
    """Environment variable that holds the server's key; by default none is sent."""

    timeout: float = 60.0
    """Seconds that an answer may take; then it is asked for again."""

    answer_tokens: int = 256
    """Most tokens of an answer; models that write down their thoughts first need more."""

    def __post_init__(self) -> None:
        if (self.answers is None) == (self.endpoint is None):
            raise InputError(
                "a quiz is scored by --answers FILE or by --endpoint URL; give one of them"
            )
        if self.endpoint is not None:
            require_given("endpoint", self.endpoint)
        for name in ("model", "api_key_env"):
            if getattr(self, name) is None:
                continue
            require_given(name, getattr(self, name))
            if self.endpoint is None:
                raise InputError(
                    f"{name} goes with an endpoint; leave it out, or give --endpoint URL",
                    field=name,
                )
        require_positive("timeout", self.timeout)
        require_positive_integer("answer_tokens", self.answer_tokens)
