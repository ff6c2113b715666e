"""The part `judge`: features that a language model recognizes in a quiz."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....sae.common.errors import InputError
from ....sae.common.validation import require_given, require_positive, require_positive_integer
from ...features.index import FeatureIndex, has_index
from ...labels.server_labeler import connected
from ...recognition.asking import ask_quiz
from ...recognition.quiz import key_of, make_quiz, questions_of
from ...recognition.scoring import score_answers
from ..part import Figure, Measured, Part, SuiteContext


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Whom to ask, and how much."""

    endpoint: str = ""
    """Address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; must be given."""
    model: str | None = None
    """Name of its model; by default the only one that it has."""
    api_key_env: str | None = None
    """Environment variable that holds the server's key."""
    features: int = 200
    """Random features of each autoencoder."""
    pairs: int = 10
    """Pairs of texts of each feature."""
    timeout: float = 60.0
    """Seconds that an answer may take."""
    answer_tokens: int = 256
    """Most tokens of an answer."""

    def __post_init__(self) -> None:
        for name in ("features", "pairs", "answer_tokens"):
            require_positive_integer(name, getattr(self, name))
        require_positive("timeout", self.timeout)
        for name in ("model", "api_key_env"):
            if getattr(self, name) is not None:
                require_given(name, getattr(self, name))


def judge(context: SuiteContext) -> Sequence[Measured]:
    """Ask the server a quiz on each autoencoder that has a feature index; nothing about others.

    Raises InputError if no server is named.
    """
    options: JudgeSettings = context.options
    if not options.endpoint:
        raise InputError(
            "the part judge asks a server; give --part-setting judge.endpoint=URL, or leave it out"
        )
    labeler = connected(
        options.endpoint,
        model=options.model,
        api_key_env=options.api_key_env,
        timeout=options.timeout,
        answer_tokens=options.answer_tokens,
        say=context.say,
    )
    found: list[Measured] = []
    for done, subject in enumerate(context.subjects, start=1):
        if subject.baseline is not None or not has_index(subject.path):
            found.append(Measured())
            continue
        index = FeatureIndex.of_run(subject.path)
        quiz = make_quiz(index, options.features, options.pairs, seed=context.seed)
        answers: dict[int, list[str | None]] = {}
        rejected = ask_quiz(questions_of(quiz), labeler, answers)
        result = {**score_answers(key_of(quiz), answers), "model": labeler.name}
        warnings = [f"judge: {len(rejected)} answers could not be used"] if rejected else []
        found.append(Measured(figures=_figures(result), details=result, warnings=warnings))
        context.progress(done, len(context.subjects))
    return found


def _figures(result: dict[str, Any]) -> list[Figure]:
    ends = None if result["low"] is None else (result["low"], result["high"])
    return [
        Figure(
            name="recognized",
            value=result["fraction"],
            heading="recognized",
            interval=ends,
            percent=True,
            digits=1,
        ),
        Figure(
            name="accuracy",
            value=result["accuracy"],
            heading="pairs",
            standard_error=result["accuracy_standard_error"],
            percent=True,
            digits=1,
            in_table=False,
        ),
    ]


JUDGE = Part(
    measure=judge,
    heading="Recognized by a judge",
    reading="Random features of which a language model, shown half of the examples, told at least "
    "8 of 10 further ones from near misses; guessing is taken for that in 5.5 % of the features. "
    "Only of runs with a feature index.",
    options=JudgeSettings,
    depends_on=(),
    by_default=False,
)
