"""Every option with every kind of wrong value, and wrong files of every kind."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from sparsteer.app.browser.server import Running
from sparsteer.app.browser.session import Session
from sparsteer.cli.main import VERBS, main
from sparsteer.steering.interventions.intervention import Intervention, SteeredFeature

from .wrong_inputs import Case, deviations, report, report_in_processes
from .wrong_values import GOOD, file_cases, make_odd_files, option_cases

ONE_IN = 30

# As users have it: the annotations are checked by the code itself or not at all.
pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model_folder: Path,
    corpus: Path,
    cache: Path,
    run_folder: Path,
) -> Iterator[Path]:
    """A folder with what the good words of the verbs name; the home and the fetched are empty."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "model").symlink_to(tiny_model_folder)
    lines = corpus.read_text().splitlines(keepends=True)
    (folder / "text.jsonl").write_text("".join(lines[:60]))
    shutil.copytree(cache, folder / "cache")
    shutil.copytree(run_folder, folder / "run")
    (folder / "texts.txt").write_text("aaa bb aab\nba ab aaaa\nabab bbba aa\n")
    (folder / "others.txt").write_text("jih ghi\nhhij gigi jj\niij hgj hhh\n")
    (folder / "rude.txt").write_text("aab\nbba\nabb\nbaa\naba\nbab\naaab\nbbba\n")
    (folder / "kind.txt").write_text("ghi\nhig\nigh\njig\nghj\nhij\ngggh\njjji\n")
    (folder / "prompts.txt").write_text("abba\ngigi\n")
    (folder / "neutral.txt").write_text("cdef fed dec\nfeed ded cef\ncede fee def\n")
    question = {"question": "ab ba?", "choices": ["aa", "jj"], "answer": 0}
    (folder / "questions.jsonl").write_text(json.dumps(question) + "\n")
    rows: list[dict[str, Any]] = [
        {"text": text, "n": n} for n, text in enumerate(("abc de", "hij", "aab ba", "jj i"))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "target.jsonl").write_text('{"text": "abc bcd"}\n{"text": "aab"}\n')
    scored = [{**row, "sparsteer_score": row["n"] / 4} for row in rows]
    (folder / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scored))
    push = SteeredFeature(index=3, strength=1.0, max_activation=5.0)
    steering = Intervention.of_features(site="blocks.1.hook_resid_post", features=(push,))
    (folder / "steering.json").write_text(steering.to_json())
    make_odd_files(folder / "odd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        # So that / and .. are refused as soon on every machine, however many files it holds.
        patch.setattr("sparsteer.sae.common.paths._MOST_FILES", 20_000)
        # A server ends where a person would end it, and reads no language model in the background.
        patch.setattr(Running, "wait", Running.stop)
        patch.setattr(Session, "start_loading", _not_now)
        patch.chdir(folder)
        words = ("run", "--cache", "cache", "--examples", "3")
        assert main(["features", "build", *words]) == 0
        words = ("run", "--out", "quiz", "--n", "3", "--pairs", "1")
        assert main(["features", "quiz", *words]) == 0
        quiz = json.loads(Path("quiz/quiz.json").read_text())["quiz"]
        Path("answers.json").write_text(json.dumps({"quiz": quiz, "answers": {"1": ["A"]}}))
        assert main(["pick", "run", "add", "3", "--label", "a"]) == 0
        words = ("rows.jsonl", "--target", "target.jsonl", "--run", "run")
        assert main(["score", *words, "--out", "explained.jsonl"]) == 0
        yield folder


def _not_now(session: Session) -> None: ...


@pytest.mark.slow
def test_the_good_words_are_right(world: Path) -> None:
    """Else every wrong value would be hidden behind another mistake."""
    for name, words in GOOD.items():
        if name not in ("fetch", "demo"):
            found = deviations(Case(name, [*name.split(), *words], is_wrong=False), world)
            assert not found, (name, found)
    assert set(GOOD) | {"doctor"} >= set(VERBS), "a new verb needs good words"


@pytest.mark.slow
def test_a_sample_of_wrong_inputs(world: Path) -> None:
    """The same ones whatever options are added; `make test-slow` runs all, and wrong files."""
    cases = [case for case in option_cases() if case.is_wrong]
    sample = [case for case in cases if crc32(case.name.encode()) % ONE_IN == 0]
    assert len(sample) > 80
    assert not report(sample, world)


@pytest.mark.slow
def test_all_wrong_inputs(world: Path) -> None:
    cases = [*option_cases(), *file_cases()]
    assert len(cases) >= 3000
    lines = report_in_processes(cases, world, processes=min(4, os.cpu_count() or 1))
    assert not lines, f"{len(lines)} deviations:\n" + "\n".join(lines[:200])
