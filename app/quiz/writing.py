"""Write a quiz on features of a run into a folder: a page, the questions for programs, the key."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...sae.common.errors import InputError
from ...sae.common.files import atomic_folder
from ...sae.common.locks import hold
from ...steering.features.index import FeatureIndex
from ...steering.recognition.config import QuizConfig
from ...steering.recognition.files import KEY, QUIZ, write_quiz_files
from ...steering.recognition.quiz import Quiz, make_quiz, questions_of
from ...steering.recognition.scoring import chance_to_recognize, right_needed
from ..sharing.static_page import script_json

PAGE = "quiz.html"

_PARTS = Path(__file__).parent / "page"


def write_quiz(
    config: QuizConfig, *, report: Callable[[int, int, str], None] = lambda done, total, more: None
) -> dict[str, Any]:
    """Draw the features and write the quiz; the folder appears whole, or stays as it was.

    Args:
        config: of which run, and how much.
        report: told of progress.

    Returns:
        run, folder, page, quiz (its identity), questions, pairs of each, alive (features that ever
        fired), skipped (drawn, but with too few examples), near_misses (the fraction of the wrong
        texts that are near misses), needed (right pairs of a recognized feature), chance (of
        recognizing a feature by guessing) and warnings, sentences.

    Raises:
        InputError: no such run or index, no feature has enough examples, or something else is in
            the folder.
    """
    index = FeatureIndex.of_run(config.run)
    folder = Path(config.out).resolve()
    _require_free(folder, config)
    quiz = make_quiz(index, config.n, config.pairs, seed=config.seed, report=report)
    about = {
        "run": config.run,
        "sae": index.manifest["sae"],
        "model": index.manifest.get("model"),
        "site": index.manifest["site"],
        "seed": config.seed,
        "needed": right_needed(config.pairs),
    }
    with hold(folder, remedy="wait for it, or give another --out"):
        with atomic_folder(folder) as temporary:
            write_quiz_files(temporary, quiz, about)
            (temporary / PAGE).write_text(quiz_page(quiz), encoding="utf-8")
            _require_free(folder, config)
    misses = [pair.other == "near_miss" for q in quiz.questions for pair in q.pairs]
    return {
        "run": config.run,
        "folder": config.out,
        "page": str(Path(config.out) / PAGE),
        "quiz": quiz.identity,
        "questions": len(quiz.questions),
        "pairs": config.pairs,
        "alive": quiz.n_alive,
        "skipped": quiz.n_skipped,
        "near_misses": sum(misses) / len(misses),
        "needed": right_needed(config.pairs),
        "chance": chance_to_recognize(config.pairs),
        "warnings": [] if any(misses) else [_without_near_misses(index)],
    }


def _without_near_misses(index: FeatureIndex) -> str:
    why = index.manifest.get("missing", {}).get("near_misses")
    because = f" because {why}" if why else "; build it again with --near-misses"
    return (
        f"the index has no near misses that could be asked about{because}: features are told from "
        "others only, which is easier"
    )


def quiz_page(quiz: Quiz) -> str:
    """The page: everything in one file, which loads nothing and sends nothing."""
    given = script_json({"quiz": quiz.identity, "questions": questions_of(quiz)})
    nonce = hashlib.sha256(given.encode()).hexdigest()[:32]
    page = (_PARTS / "quiz.html").read_text(encoding="utf-8")
    parts = {"nonce": nonce, "questions": given}
    for name in ("quiz.css", "quiz.js"):
        parts[name] = (_PARTS / name).read_text(encoding="utf-8")
    # The questions last: what stands in them is never taken for a place to fill.
    for name in ("quiz.css", "quiz.js", "nonce", "questions"):
        page = page.replace(f"{{{{ {name} }}}}", parts[name])
    return page


def _require_free(folder: Path, config: QuizConfig) -> None:
    """Raise InputError if there is something other than the files of a quiz without answers."""
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {str(folder)}
    if other := sorted(names - {QUIZ, KEY, PAGE}):
        raise InputError(
            f"out is {config.out}, which holds {other[0]}; give a new folder", field="out"
        )
