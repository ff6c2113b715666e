"""The verb `site check`: a page for people, an object for programs."""

import json
from pathlib import Path

import pytest

from .conftest import SITES, Sparsteer


@pytest.fixture(scope="module")
def few_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "few.jsonl"
    texts = ["abc de fgh", "hij jj [b] a", "abab " * 30]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_a_model_is_looked_at(
    sparsteer: Sparsteer, tiny_model_folder: Path, few_texts: Path
) -> None:
    words = ("--model", tiny_model_folder, "--dataset", few_texts, "--context-length", 32)
    done = sparsteer("site", "check", *words, "--site", SITES[0], "--massive-ratio", 3, "--json")
    assert done.status == 0
    values = done.values
    assert (values["site"], values["cache"], values["d_model"]) == (SITES[0], None, 32)
    assert set(values["kinds"]) == {"bos", "separator", "first_token", "content"}
    assert values["rows"] == values["kinds"]["content"]["rows"]
    assert {"content", "excluded"} <= set(values["geometry"])
    assert values["massive_coordinates"] >= sum(c["massive"] for c in values["coordinates"]) > 0
    carriers = values["coordinates"][0]["carriers"]
    assert sum(carriers["kinds"].values()) == carriers["rows"]
    assert isinstance(carriers["tokens"][0]["text"], str)
    assert values["recommendation"] and values["unknown"] == []


def test_the_page_has_figures_and_advice(
    sparsteer: Sparsteer, tiny_model_folder: Path, few_texts: Path
) -> None:
    words = ("--model", tiny_model_folder, "--dataset", few_texts, "--outlier-norm", 1.2)
    page = sparsteer("site", "check", *words, "--massive-ratio", 3).out
    lines = page.splitlines()
    assert lines[0].startswith("blocks.1.hook_resid_post of ")
    for name in ("BOS", "first token", "content", "as training reads", "without outliers"):
        assert any(line.startswith(name) for line in lines), name
    advice = lines[lines.index("recommendation:") + 1 :]
    assert len(advice) >= 3 and all(line.startswith("- ") for line in advice)
    assert "above 1.2 times the median norm, by position and token:" in page
    assert any(line.startswith("position ") for line in lines)


def test_a_cache_is_looked_at(sparsteer: Sparsteer, cache: Path) -> None:
    words = ("site", "check", "--cache", cache, "--site", SITES[1], "--tokens", 500)
    values = sparsteer(*words, "--json").values
    assert (values["rows"], values["cache"]) == (500, str(cache))
    assert set(values["geometry"]) - {"outliers", "massive_coordinates"} == {"content"}
    assert len(values["unknown"]) == 2
    page = sparsteer(*words).out
    assert page.count("not known: a cache does not hold") == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "--model is missing; give --model and --dataset to read, or the folder of"),
        (("--model", "m"), "--dataset is missing"),
        (("--cache", "no-such"), "there is no activation cache at no-such"),
        (("--cache", "c", "--dataset", "d"), "--dataset is 'd', but the activations of c have"),
        (("--model", "m", "--dataset", "d", "--top", "0"), "--top is 0"),
        (("--model", "m", "--dataset", "d", "--masive-ratio", "3"), "you meant --massive-ratio"),
    ],
)
def test_wrong_words(sparsteer: Sparsteer, words: tuple[str, ...], sentence: str) -> None:
    done = sparsteer("site", "check", *words)
    assert done.status == 2
    assert sentence in done.error


def test_an_unknown_site_is_answered_with_near_ones(sparsteer: Sparsteer, cache: Path) -> None:
    done = sparsteer("site", "check", "--cache", cache, "--site", "blocks.0.hook_resid_pots")
    assert done.status == 2
    assert f"has no site 'blocks.0.hook_resid_pots'; it has {SITES[0]}" in done.error


def test_the_verb_needs_its_second_word(sparsteer: Sparsteer) -> None:
    assert "site needs one more word: site check" in sparsteer("site").error
    assert "--massive-ratio" in sparsteer("site", "check", "--help").out
