"""Settings of machine labels; nothing here imports torch."""

from dataclasses import dataclass

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import (
    require_given,
    require_integer,
    require_positive,
    require_positive_integer,
)

LOCAL = "local"
"""The endpoint that is no server: a language model in this process."""

_MOST_JUDGED = 100
"""With as many texts on which the feature is silent about 10,000 tokens in one question."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Let a language model label the features of a run, and score its labels."""

    run: FilePath
    """Folder of the run, which has a feature index."""

    endpoint: str
    """Address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1, or `local`: a
    language model in this process, by default the autoencoder's own. Small models label badly."""

    model: str | None = None
    """Name of the model that labels; by default the only one that the server has, or for `local`
    the language model that the autoencoder was trained on."""

    top: int = 100
    """Features to label: the picks without a label, then the most interesting. Those that a person
    labeled do not count, and are left alone."""

    feature: tuple[int, ...] = ()
    """Numbers of the features to label, in place of --top."""

    again: bool = False
    """Label features anew that have a machine label, or whose answer was rejected, too."""

    dry_run: bool = False
    """Say how many requests and tokens it would take, and show a prompt; nothing is asked."""

    api_key_env: str | None = None
    """Environment variable that holds the server's key; by default none is sent."""

    timeout: float = 60.0
    """Seconds that an answer may take; then it is asked for again."""

    answer_tokens: int = 256
    """Most tokens of an answer; models that write down their thoughts first need more."""

    judged: int = 8
    """Other examples by which a label is scored, and as many texts on which the feature is silent;
    at most 100, and 0 leaves labels without a score."""

    device: str = "auto"
    """Where a local model runs: auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        require_given("endpoint", self.endpoint)
        for name in ("top", "answer_tokens"):
            require_positive_integer(name, getattr(self, name))
        require_integer("judged", self.judged, least=0)
        if self.judged > _MOST_JUDGED:
            raise InputError(
                f"judged is {self.judged}, but one question names them all; give at most "
                f"{_MOST_JUDGED}",
                field="judged",
            )
        require_positive("timeout", self.timeout)
        for name in ("model", "api_key_env"):
            if getattr(self, name) is not None:
                require_given(name, getattr(self, name))
        for number in self.feature:
            require_integer("feature", number, least=0)
            if self.feature.count(number) > 1:
                raise InputError(
                    f"feature names {number} more than once; give each number once",
                    field="feature",
                )
        if self.endpoint == LOCAL and self.api_key_env is not None:
            raise InputError(
                "api_key_env goes with a server, and the endpoint is local; leave it out",
                field="api_key_env",
            )
