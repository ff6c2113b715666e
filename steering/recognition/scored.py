"""Score a quiz: answers from a file, or those of a language model, asked first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...sae.common.files import read_json
from ..labels.server_labeler import connected
from .asking import answers_file, ask_quiz
from .config import QuizScoreConfig
from .files import KEY, read_answers, read_quiz, write_answers
from .scoring import score_answers


def score_quiz(
    config: QuizScoreConfig,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    report: Callable[[int, int, str], None] = lambda done, total, more: None,
) -> dict[str, Any]:
    """Score the answers that the configuration names.

    Args:
        config: the quiz, and whose answers.
        say: told of every wait for a server.
        report: told of progress.

    Returns:
        What `score_answers` gives, and quiz (its identity), run, `by` (who answered, None if the
        file does not say), answers (the file), `rejected` (questions to which no answer of the
        server could be used, which are not among those answered), requests, tokens_in and
        tokens_out.

    Raises:
        InputError: there is no such quiz or file, the answers are of another quiz, or the server
            refuses the request.
        EndpointError: the server failed more often than it is asked again.
    """
    key = read_quiz(config.quiz, KEY)
    rejected: list[int] = []
    usage = {"requests": 0, "tokens_in": 0, "tokens_out": 0}
    if config.answers is not None:
        path = Path(config.answers)
        answers = read_answers(path, key)
        by = read_json(path, "file of answers", remedy="save the answers again").get("by")
    else:
        assert config.endpoint is not None
        labeler = connected(
            config.endpoint,
            model=config.model,
            api_key_env=config.api_key_env,
            timeout=config.timeout,
            answer_tokens=config.answer_tokens,
            say=say,
        )
        by, path = labeler.name, answers_file(config.quiz, labeler.name)
        answers = read_answers(path, key) if path.exists() else {}
        rejected = ask_quiz(
            read_quiz(config.quiz)["questions"],
            labeler,
            answers,
            save=lambda: write_answers(path, key["quiz"], answers, labeler.name),
            report=report,
        )
        usage = {name: getattr(labeler.usage, name) for name in usage}
    return {
        "quiz": key["quiz"],
        "run": key["run"],
        "by": by if isinstance(by, str) else None,
        "answers": str(path),
        "rejected": rejected,
        **usage,
        **score_answers(key["key"], answers),
    }
