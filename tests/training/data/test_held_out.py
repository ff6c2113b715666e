"""Held-out documents: a function of the text, about as many as asked for, and some on each side."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.training.data.corpus import Corpus
from sparsteer.training.data.held_out import held_out_bound, is_held_out

ALL = 2**64


def corpus_of(texts: list[str]) -> Corpus:
    return Corpus("x", "y", None, ("a",), lambda part: iter(texts))


@given(st.text(), st.integers(0, ALL), st.integers(0, ALL))
def test_the_side_is_a_function_of_the_text_and_grows_with_the_bound(
    text: str, a: int, b: int
) -> None:
    low, high = sorted((a, b))
    assert is_held_out(text, low) <= is_held_out(text, high)
    assert not is_held_out(text, 0)
    assert is_held_out(text, ALL)


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9])
def test_the_share_is_near_the_fraction(fraction: float) -> None:
    texts = [f"document {i}" for i in range(4000)]
    bound = held_out_bound(corpus_of(texts), fraction)
    share = np.mean([is_held_out(text, bound) for text in texts])
    assert abs(share - fraction) < 4 * (fraction * (1 - fraction) / 4000) ** 0.5


@given(st.lists(st.text(max_size=3)), st.floats(0.001, 0.999))
def test_both_sides_have_a_document_if_there_are_two_texts(
    texts: list[str], fraction: float
) -> None:
    bound = held_out_bound(corpus_of(texts), fraction)
    distinct = {text for text in texts if text.strip()}
    sides = {is_held_out(text, bound) for text in distinct}
    assert len(sides) == min(len(distinct), 2)


def test_the_bound_is_that_of_the_fraction_wherever_it_can_be() -> None:
    texts = [f"document {i}" for i in range(200)]
    assert held_out_bound(corpus_of(texts), 0.25) == ALL // 4
    assert held_out_bound(corpus_of(["", "only one", "only one"]), 0.25) == ALL // 4
    assert held_out_bound(corpus_of([]), 0.25) == ALL // 4
    assert held_out_bound(corpus_of(texts), 0.0) == 0


def test_a_moved_bound_puts_one_text_on_the_other_side() -> None:
    texts = [f"document {i}" for i in range(10)]
    for fraction, n_held_out in ((1e-9, 1), (1 - 1e-9, 9)):
        bound = held_out_bound(corpus_of(texts), fraction)
        assert sum(is_held_out(text, bound) for text in texts) == n_held_out


def test_no_more_is_read_than_until_both_sides_have_one() -> None:
    n_read = 0

    def read(part: int) -> Iterator[str]:
        nonlocal n_read
        for number in range(10**9):
            n_read += 1
            yield f"document {number}"

    held_out_bound(Corpus("x", "y", None, ("a",), read), 0.5)
    assert n_read < 30


def test_lone_surrogates_have_a_side() -> None:
    assert is_held_out("\ud800", ALL)
