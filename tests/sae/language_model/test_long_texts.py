"""Long texts in pieces: nothing is lost, pieces stay short, and tokens are those of the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae import LanguageModel
from sparsteer.sae.language_model import long_texts
from sparsteer.sae.language_model.long_texts import text_pieces

texts = st.lists(st.text(alphabet="ab \n\t.☃", max_size=9), max_size=40).map("".join)


@given(texts, st.integers(1, 40))
def test_pieces_lose_nothing_and_stay_short(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_texts, "PIECE_CHARACTERS", size)
        patch.setattr(long_texts, "_LOOKED_THROUGH", max(size // 2, 1))
        found = list(text_pieces(text))
    assert "".join(found) == text
    assert all(0 < len(piece) <= size for piece in found)
    if 0 < len(text) <= size:
        assert found == [text]


def test_words_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_texts, "PIECE_CHARACTERS", 50)
    text = "  ".join(f"word{n}, then another one" for n in range(99))
    pieces = list(text_pieces(text))
    assert len(pieces) > 30
    assert "".join(pieces) == text
    words = [word for piece in pieces for word in piece.split()]
    assert words == text.split()
    lines = "line\n\nline.\n" * 99
    assert [word for piece in text_pieces(lines) for word in piece.split()] == lines.split()


def test_a_long_text_has_the_tokens_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, tiny_model: LanguageModel
) -> None:
    text = "one word after another, and so on: " * 40
    whole = tiny_model.tokenize(text)
    assert list(tiny_model.token_pieces(text)) == [whole]
    monkeypatch.setattr(long_texts, "PIECE_CHARACTERS", 100)
    assert tiny_model.tokenize(text) == whole
    assert len(list(tiny_model.token_pieces(text))) > 10
