"""Text that cannot deceive, and sentences that stay readable."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae.common.text import LONGEST_SENTENCE, error_sentence, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, é 中 🎉 ", "plain text, é 中 🎉 "),
        ("two\nlines\tand tab", "two⏎lines⇥and tab"),
        ("\x1b[31mred\x1b]0;title\x07", "⟨U+001B⟩[31mred⟨U+001B⟩]0;title⟨U+0007⟩"),
        ("\rover", "⟨U+000D⟩over"),
        ("a\u202egnp.exe", "a⟨U+202E⟩gnp.exe"),
        ("zero\u200bwidth\ufeff", "zero⟨U+200B⟩width⟨U+FEFF⟩"),
        ("\u2066isolate\u2069", "⟨U+2066⟩isolate⟨U+2069⟩"),
        ("no\u00a0break \u2028line", "no⟨U+00A0⟩break ⟨U+2028⟩line"),
        ("\x9b31m\x85", "⟨U+009B⟩31m⟨U+0085⟩"),
        ("\U000e0041tag \ue000", "⟨U+E0041⟩tag ⟨U+E000⟩"),
        ("\udcf0\udc9f", "⟨byte F0⟩⟨byte 9F⟩"),
        ("\ud800", "⟨U+D800⟩"),
    ],
)
def test_hidden_characters_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(text=st.text())
def test_what_is_shown_is_plain(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    hidden = [c for c in shown if c != " " and unicodedata.category(c)[0] in "CZ"]
    assert not hidden


@given(text=st.text())
def test_an_error_is_one_short_plain_line(text: str) -> None:
    sentence = error_sentence(text * 50)
    assert len(sentence) <= LONGEST_SENTENCE
    assert sentence.isprintable()


def test_a_long_value_loses_its_middle_and_the_sentence_around_it_stays() -> None:
    value = "a" * 3000 + "\x1b" + "b" * 100_000
    sentence = error_sentence(f"--out is '{value}',\nwhose name is too long; give a shorter one")
    assert sentence.startswith("--out is 'aaaa")
    assert sentence.endswith("bbb', whose name is too long; give a shorter one")
    assert "…" in sentence and len(sentence) <= LONGEST_SENTENCE


def test_a_short_error_stays_as_it_is() -> None:
    sentence = "there is no [bold] verb 'x'; " + "perhaps " * 40
    assert error_sentence(sentence) == sentence.strip()
