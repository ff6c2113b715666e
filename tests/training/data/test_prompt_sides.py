"""The split of the toxicity prompts: by what they say, not by how it is written."""

from hypothesis import given
from hypothesis import strategies as st

from sparsteer.training.data.prompt_sides import side_of

words = st.lists(st.text("abcdefghijklmnopqrstuvwxyzéß", min_size=1), min_size=1, max_size=12)


@given(words, st.sampled_from([" ", "  ", "\t", "\n ", "\u00a0"]))
def test_white_space_case_and_digits_do_not_change_the_side(texts: list[str], space: str):
    plain = " ".join(texts)
    assert side_of(f"17{space}{space.join(texts).upper()}!{space}") == side_of(plain.upper())


@given(st.lists(st.text("abcdefgh", min_size=1), min_size=6, max_size=9), st.text())
def test_a_longer_cut_of_the_same_text_is_on_the_same_side(texts: list[str], more: str):
    assert side_of(" ".join(texts)) == side_of(" ".join(texts) + " " + more)


def test_about_half_of_many_prompts_are_on_each_side():
    sides = [side_of(f"prompt {chr(97 + i % 26)}{chr(97 + i // 26)} goes on") for i in range(676)]
    assert 270 < sides.count("reporting") < 406
