"""Several data sets with weights as one text, and single ones that stay as they are."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.common.mixtures import joined, renamed, shares_of
from sparsteer.sae.language_model.names import lasting_name, public_name

NAMES = st.text("ab /.-'\"\\:*1", min_size=1, max_size=9)


def parts(text: str) -> list[tuple[str, float]]:
    return [(share.name, float(share.weight)) for share in shares_of(text)]


def test_words_with_and_without_a_weight() -> None:
    text = joined(["news:3", "owner/chat@v2", "./b.jsonl:0.50"])
    assert text == "news:3 owner/chat@v2:1 ./b.jsonl:0.5"
    assert parts(text) == [("news", 3), ("owner/chat@v2", 1), ("./b.jsonl", 0.5)]
    assert parts("news:30 chat:0.125") == [("news", 30), ("chat", 0.125)]
    assert joined(["news:30.0", "chat:007"]) == "news:30 chat:7"


@pytest.mark.parametrize("text", ["news", "news:3", "a file.jsonl", "one two:3", "it's", ""])
def test_one_data_set_is_no_mixture(text: str) -> None:
    assert shares_of(text) == ()
    assert joined([text]) == text


@given(st.lists(st.tuples(NAMES, st.integers(1, 99)), min_size=2, max_size=4))
def test_any_names_come_back(pairs: list[tuple[str, int]]) -> None:
    words = [f"{name}:{weight}" for name, weight in pairs]
    if len({name for name, _ in pairs}) < len(pairs):
        with pytest.raises(InputError, match="twice"):
            joined(words)
        return
    text = joined(words)
    assert parts(text) == pairs
    assert renamed(text, lambda name: name) == text
    renumbered = renamed(text, lambda name: f"{name}!")
    assert parts(renumbered) == [(f"{name}!", weight) for name, weight in pairs]


def test_a_file_that_is_there_keeps_its_colon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a:3", "b:1 c:2"):
        Path(name).touch()
    assert joined(["a:3", "news:2"]) == "a:3:1 news:2"
    assert parts("a:3:1 news:2") == [("a:3", 1), ("news", 2)]
    assert shares_of("b:1 c:2") == ()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["news:0", "chat:1"], "dataset has news with a weight of 0; leave it out"),
        (["news:2", "news"], "dataset names news twice; give it once"),
        (["news:-1", "chat"], "dataset gives news the weight '-1', but a weight is a number"),
        (["news", "chat:much"], "dataset gives chat the weight 'much'"),
    ],
)
def test_wrong_weights(words: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        joined(words)
    assert sentence in str(caught.value)
    assert caught.value.field == "dataset"


def test_names_for_later_and_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my text.jsonl").touch()
    lasting = lasting_name(joined(["my text.jsonl:2", "news"]))
    assert parts(lasting) == [(f"{tmp_path}/my text.jsonl", 2), ("news", 1)]
    monkeypatch.chdir("/")
    assert lasting_name(lasting) == lasting
    assert parts(public_name(lasting)) == [("./my text.jsonl", 2), ("news", 1)]
    assert shares_of(lasting)[0].weight == Fraction(2)
