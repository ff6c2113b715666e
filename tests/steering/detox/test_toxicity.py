"""The toxicity scorer, its guard against other pickles, and the prompts of each side."""

import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.detox import profanity_check as scorer_module
from sparsteer.steering.detox import prompts as prompts_module
from sparsteer.steering.detox.prompts import Prompt, prompts_of
from sparsteer.steering.detox.toxicity import (
    NEUTRAL_SENTENCES,
    Toxicity,
    identity_bias,
    summarize_scores,
    toxicity,
    toxicity_scores,
)
from sparsteer.steering.registries import SCORERS
from sparsteer.training.data.prompt_sides import side_of

INSULT = "You are a stupid idiot and everyone hates you."
POLITE = "The committee will meet again on Thursday afternoon."


def test_insults_score_high_and_plain_sentences_low():
    high, low = toxicity_scores([INSULT, POLITE])
    assert high > 0.9
    assert low < 0.1


def test_scores_do_not_depend_on_the_other_texts():
    texts = [INSULT, POLITE, "", "\u2603 \ud7ff \n"]
    assert toxicity_scores(texts) == [toxicity_scores([text])[0] for text in texts]
    assert toxicity_scores([]) == []


def test_mean_and_share_of_several_texts():
    found = toxicity([INSULT, POLITE, POLITE])
    scores = toxicity_scores([INSULT, POLITE])
    assert found.mean == pytest.approx((scores[0] + 2 * scores[1]) / 3)
    assert found.fraction == pytest.approx(1 / 3)
    assert found.texts == 3


def test_one_half_itself_is_not_above_one_half():
    assert summarize_scores([0.5, 0.5000001]).fraction == 0.5


def test_no_texts_are_an_input_error():
    with pytest.raises(InputError, match="no texts"):
        toxicity([])


def test_the_bias_on_identity_words_is_measured_and_not_hidden():
    bias = identity_bias()
    assert set(bias) == set(NEUTRAL_SENTENCES)
    assert list(bias.values()) == sorted(bias.values(), reverse=True)
    # The published scorer takes this word for a slur; a scorer without the fault would be news.
    assert bias["gay"] > 0.5
    assert bias["queer"] > 0.5
    assert bias["Christian"] < 0.5
    assert bias["gay"] == toxicity_scores([NEUTRAL_SENTENCES["gay"]])[0]


def test_another_scorer_is_taken_by_its_name(monkeypatch: pytest.MonkeyPatch):
    def letters(texts: Sequence[str]) -> list[float]:
        return [min(1.0, text.count("x") / 4) for text in texts]

    def none(texts: Sequence[str]) -> list[float]:
        return []

    monkeypatch.setattr(SCORERS, "get", {"letters": letters, "none": none}.__getitem__)
    assert toxicity_scores(["", "xx", "xxxxxxxx"], "letters") == [0.0, 0.5, 1.0]
    assert toxicity(["xxx", ""], scorer="letters") == Toxicity(mean=0.375, fraction=0.5, texts=2)
    assert set(identity_bias("letters").values()) == {0.0}
    with pytest.raises(InputError, match="'none' gave 0 scores for 1 texts"):
        toxicity_scores(["x"], "none")


def test_a_wrong_scorer_is_named():
    with pytest.raises(InputError, match="did you mean alt-profanity-check"):
        toxicity_scores(["x"], "profanity-check")


Pretend = Callable[[str, Path], None]
"""Pretends that the scorer's package is installed: its version, and the folder with its files."""


class FakeDistribution:
    """A package whose files lie in a folder of the test."""

    def __init__(self, folder: Path, version: str) -> None:
        self.folder, self.version = folder, version

    def locate_file(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretend]:
    """Pretend that alt-profanity-check lies in a folder; nothing must be imported from there."""
    scorer_module.load_model.cache_clear()
    package = tmp_path / "profanity_check"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('it was imported')\n")
    for name in ("model", "vectorizer"):
        (package / "data" / f"{name}.joblib").write_bytes(b"not the published bytes")
    monkeypatch.delitem(sys.modules, "profanity_check", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def pretend(version: str, folder: Path) -> None:
        fake = FakeDistribution(folder, version)

        def distribution(name: str) -> FakeDistribution:
            return fake

        monkeypatch.setattr(importlib.metadata, "distribution", distribution)

    yield pretend
    scorer_module.load_model.cache_clear()


def test_another_version_is_refused_with_the_remedy(installed: Pretend, tmp_path: Path):
    installed("1.6.0", tmp_path)
    with pytest.raises(InputError, match=r"1\.6\.0.*pip install 'alt-profanity-check==1\.9\.1'"):
        toxicity_scores([POLITE])


def test_other_bytes_are_never_unpickled(installed: Pretend, tmp_path: Path):
    installed("1.9.1", tmp_path)
    with pytest.raises(InputError, match=r"data/model\.joblib is not the published file"):
        toxicity_scores([POLITE])


def test_a_module_of_the_same_name_elsewhere_is_refused(installed: Pretend, tmp_path: Path):
    other = tmp_path / "other"
    (other / "profanity_check").mkdir(parents=True)
    (other / "profanity_check" / "__init__.py").write_text("")
    installed("1.9.1", other)
    with pytest.raises(InputError, match=r"import profanity_check finds .*instead of"):
        toxicity_scores([POLITE])


def test_a_missing_scorer_is_a_sentence(installed: Pretend, monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(InputError, match="missing; run `pip install"):
        toxicity_scores([POLITE])


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    rows = [
        {"prompt": f"Word {chr(97 + i % 26)} and word {chr(97 + i // 26)} went", "attribute": "a"}
        for i in range(60)
    ]
    rows += [{**row, "prompt": f" {row['prompt'].upper()}\t", "attribute": "b"} for row in rows[:9]]
    path = tmp_path / "rtp-prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def fetch(name: str) -> Path:
        return path

    monkeypatch.setattr(prompts_module, "fetch", fetch)
    return rows


def test_the_sides_share_no_prompt_and_miss_none(fetched: list[dict[str, str]]):
    tuning, reporting = prompts_of("tuning"), prompts_of("reporting")
    assert {prompt.text for prompt in tuning + reporting} == {row["prompt"] for row in fetched[:60]}
    assert len(tuning) + len(reporting) == 60
    assert min(len(tuning), len(reporting)) > 10
    assert all(side_of(prompt.text) == "tuning" for prompt in tuning)


def test_copies_of_a_prompt_become_one_with_all_attributes(fetched: list[dict[str, str]]):
    both = prompts_of("tuning") + prompts_of("reporting")
    found = {prompt.text: prompt for prompt in both}
    text = fetched[3]["prompt"]
    assert found[text] == Prompt(text=text, attributes=("a", "b"))
    assert prompts_of("tuning") == prompts_of("tuning")


def test_a_misspelt_side_names_the_right_ones(fetched: list[dict[str, str]]):
    with pytest.raises(InputError, match="give one of tuning, reporting"):
        prompts_of("tunning")
