"""The texts that are fitted to: what is read, and one sentence for what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.fitting.fitting import read_source, require_goes_with
from sparsteer.steering.fitting.sources import (
    pairs_of,
    read_pairs,
    read_scored,
    scored_texts,
    sets_of,
)
from sparsteer.steering.registries import FIT_METHODS

from .conftest import settings


def written(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_sets_are_texts_with_1_and_0() -> None:
    source = sets_of(["a", "b", "a"], ["c"])
    assert (source.texts, source.scores) == (("a", "b", "c"), (1, 1, 0))
    assert source.is_positive == (True, True, False)
    assert source.groups == (0, 1, 2)


def test_pairs_stand_one_after_the_other(tmp_path: Path) -> None:
    path = written(
        tmp_path / "pairs.jsonl",
        {"prompt": "Q? (", "positive": "A", "negative": "B"},
        {"positive": "yes", "negative": "no"},
        {"positive": "yes", "negative": "no", "prompt": None},
    )
    source = read_pairs(path)
    assert source.texts == ("Q? (A", "Q? (B", "yes", "no")
    assert (source.groups, source.scores) == ((0, 0, 1, 1), (1, 0, 1, 0))


def test_scored_texts_have_scores_and_groups(tmp_path: Path) -> None:
    rows = [{"text": t, "score": n, "group": g} for n, (t, g) in enumerate(["ax", "by", "cx"])]
    path = written(tmp_path / "scored.jsonl", *rows)
    source = read_scored(path, grouped=True)
    assert (source.scores, source.groups) == ((0, 1, 2), (0, 1, 0))
    assert source.is_positive == (False, False, True)
    assert read_scored(path).groups == (0, 1, 2)
    alone = read_scored(path, with_scores=False)
    assert (alone.kind, alone.scores, alone.texts) == ("texts", (), ("a", "b", "c"))
    assert read_scored(path, with_scores=False, grouped=True).groups == (0, 1, 0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: sets_of([], ["a"]), "positive has no text"),
        (lambda: sets_of(["a", "b"], ["b", "a"]), "the text 'a' is both in the positive and"),
        (lambda: pairs_of([]), "pairs has no pair"),
        (lambda: pairs_of([("a", "b"), ("c", "c")]), "pair 2 has the same text twice, 'c'"),
        (lambda: scored_texts(["a"], [1.0]), "scored has 1 texts"),
        (lambda: scored_texts(["a", "b"], [1.0, 1.0]), "all scores are 1"),
        (lambda: scored_texts(["a", "b"], [1.0, float("nan")]), "the score of text 2 is nan"),
    ],
)
def test_wrong_texts(make: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("row", "given", "sentence"),
    [
        ({"positive": "a"}, {"pairs": "F"}, "line 1: negative is None"),
        ({"positive": "a", "negative": 5}, {"pairs": "F"}, "line 1: negative is 5"),
        ({"positive": " ", "negative": "b"}, {"pairs": "F"}, "line 1: positive is ' '"),
        ({"text": "a"}, {"scored": "F"}, "line 1: score is None"),
        ({"text": "a", "score": True}, {"scored": "F"}, "line 1: score is True"),
        ({"text": "a", "score": "1"}, {"scored": "F"}, "line 1: score is '1'"),
        (
            {"text": "a", "score": 1},
            {"scored": "F", "center": "group", "method": "covariance"},
            "line 1: group is None",
        ),
    ],
)
def test_wrong_rows(tmp_path: Path, row: Any, given: dict[str, Any], sentence: str) -> None:
    path = written(tmp_path / "rows.jsonl", row, row)
    named = {name: path if value == "F" else value for name, value in given.items()}
    with pytest.raises(InputError, match=sentence):
        read_source(settings(**named))


def test_lines_of_text_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("a\nb\n")
    with pytest.raises(InputError, match="has lines of text where rows with fields are needed"):
        read_source(settings("caa", pairs=str(path)))
    config = settings("covariance", scored=str(path), score="entropy")
    assert read_source(config).texts == ("a", "b")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"positive": None}, "positive is missing"),
        ({"positive": None, "negative": "n"}, "negative is given without --positive"),
        ({"pairs": "p", "positive": "a"}, "pairs cannot stand beside --positive"),
        ({"pairs": "p", "scored": "a"}, "pairs cannot stand beside --scored"),
        ({"method": "mean_diference"}, "did you mean mean_difference"),
        ({"held_out": 0.95}, "held_out is 0.95"),
        ({"answer_token": 0}, "answer_token is 0, but must be a whole number from -1 down"),
        ({"answer_token": -1, "pool": "last"}, "answer_token is -1, but pool is last"),
        ({"ridge": 0.0}, "ridge is 0.0"),
        ({"coverage": 1.0}, "coverage is 1.0"),
        ({"components": 0}, "components is 0"),
        ({"method": "covariance", "scored": "s", "center": "pairs"}, "center is 'pairs'; choose"),
    ],
)
def test_wrong_settings(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        settings(**given)


@pytest.mark.parametrize(
    ("method", "given", "sentence"),
    [
        ("caa", {}, "method is caa, which is not fitted to texts given by --positive and --neg"),
        ("logistic", {"pairs": "p", "ridge": 1.0}, "ridge does not go with logistic"),
        ("mean_difference", {"edits_of": "d"}, "edits_of does not go with mean_difference"),
        ("mean_difference", {"score": "entropy"}, "score does not go with mean_difference"),
        ("covariance", {"score": "entropy", "positive": "p"}, "score is 'entropy', which is found"),
    ],
)
def test_settings_of_other_methods(method: str, given: dict[str, Any], sentence: str) -> None:
    config = settings(method, **given)
    if config.pairs is not None:
        source = pairs_of([("a", "b")])
    elif config.negative is None:
        source = sets_of(["a"], ["b"])
        source = type(source)(kind="texts", texts=("a",), scores=(), groups=(0,))
    else:
        source = sets_of(["a"], ["b"])
    with pytest.raises(InputError, match=sentence):
        require_goes_with(FIT_METHODS.get(method), source, config)


def test_one_set_is_enough_for_some(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("a\nb\nb\n")
    config = settings("ids", positive=str(path))
    source = read_source(config)
    assert (source.kind, source.texts) == ("texts", ("a", "b"))
    require_goes_with(FIT_METHODS.get("ids"), source, config)
    config = settings("dsas", positive=str(path))
    with pytest.raises(InputError, match="negative is missing"):
        require_goes_with(FIT_METHODS.get("dsas"), source, config)
