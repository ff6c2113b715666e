"""The verbs `features quiz` and `features quiz-score`."""

from typing import Any

from ..sae.common.wording import count, counted, percent, with_error
from ..steering.recognition.config import QuizConfig, QuizScoreConfig
from .console import Report, Terminal, next_command, table


def make(config: QuizConfig, terminal: Terminal) -> Report:
    """Make a quiz on random features that a person or a program answers.

    RUN is the folder of a run with a feature index. DIR gets quiz.html, a page that opens from
    disk, quiz.json with the same questions for programs, and key.json with what is right.
    """
    from ..app.quiz.writing import write_quiz

    with terminal.progress("asking", "features") as update:
        values = write_quiz(config, report=update)
    pairs = values["pairs"]
    shown = (
        f"the quiz is in {values['folder']}; open {values['page']}",
        table(
            (
                "questions",
                count(values["questions"]),
                f"features, of {count(values['alive'])} alive",
            ),
            ("skipped", count(values["skipped"]), "drawn, but with too few examples"),
            ("pairs", count(pairs), "of each; guessing gets half of them"),
            ("near misses", percent(values["near_misses"]), "of the wrong texts"),
            ("recognized", f"{values['needed']} of {pairs}", "must be right, at least"),
            ("by chance", percent(values["chance"]), "of the features would be recognized"),
        ),
        next_command("features", "quiz-score", config.out, "--answers", "answers.json"),
    )
    return Report(values=values, shown=shown, warnings=values["warnings"])


def score(config: QuizScoreConfig, terminal: Terminal) -> Report:
    """Score answers to a quiz on features, or let a language model answer it.

    QUIZ is the folder that `features quiz` made. Answers of a language model are saved there, and
    the same command goes on with the next question.
    """
    from ..steering.recognition.scored import score_quiz

    with terminal.progress("asking", "questions") as update:
        values = score_quiz(config, say=terminal.say, report=update)
    return Report(values=values, shown=_shown(values))


def _shown(values: dict[str, Any]) -> list[Any]:
    answered = values["answered"]
    by = f" by {values['by']}" if values["by"] else ""
    if not answered:
        return [f"none of {counted(values['asked'], 'question')} is answered{by}"]
    kinds = {
        "top": "of the largest activations",
        "random": "of random firings",
        "near_miss": "told from near misses",
        "other": "told from firings of other features",
    }
    found = values["by_example"] | values["by_other"]
    lines: list[Any] = [
        f"{counted(answered, 'question')} of {count(values['asked'])} answered{by}",
        table(
            (
                "recognized",
                percent(values["fraction"]),
                f"{count(values['recognized'])} features, 95% interval "
                f"{percent(values['low'])} to {percent(values['high'])}: at least "
                f"{values['needed']} of {values['pairs']} pairs right",
            ),
            ("by chance", percent(values["chance"]), "is what guessing would recognize"),
            (
                "accuracy",
                with_error(values["accuracy"], values["accuracy_standard_error"], 3),
                "of all pairs; 0.5 is guessing",
            ),
            *(
                ("", f"{found[kind]['fraction']:.3f}", f"{how} ({count(found[kind]['asked'])})")
                for kind, how in kinds.items()
                if kind in found
            ),
        ),
    ]
    if values["rejected"]:
        lines.append(f"without a usable answer: {counted(len(values['rejected']), 'question')}")
    return lines
