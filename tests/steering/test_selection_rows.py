"""The texts of rows in every layout, and the statistics of scores."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae import InputError
from sparsteer.steering.selection.rows import LAYOUTS, TextFields, find_text_fields
from sparsteer.steering.selection.statistics import quantiles, spearman

FIELDS = TextFields("given", ("a", "b"))


ROWS: list[tuple[dict[str, Any], str, str]] = [
    ({"a": "one", "b": "two", "c": "three"}, "one\n\ntwo", "ok"),
    ({"b": "two"}, "two", "ok"),
    ({"a": "", "b": " keeps its space "}, " keeps its space ", "ok"),
    ({"a": 3, "b": False}, "3\n\nFalse", "ok"),
    ({"a": None, "b": " \n"}, "", "empty"),
    ({"c": "three"}, "", "missing"),
    ({}, "", "missing"),
    ({"a": "one", "b": {"text": "nested"}}, "", "not_text"),
    ({"a": float("nan")}, "", "not_text"),
    ({"a": [1, 2]}, "", "not_text"),
    ({"a": [[["deep"]]]}, "", "not_text"),
    ({"a": [{"content": [{"content": [{"content": []}]}]}]}, "", "not_text"),
    ({"a": []}, "", "empty"),
    ({"a": [{"role": "user", "content": "hi"}, {"role": "tool", "content": None}]}, "hi", "ok"),
    (
        {"a": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]},
        "hi\n\nyo",
        "ok",
    ),
    ({"a": [{"content": [{"type": "text", "text": "x"}, {"type": "image"}]}]}, "x", "ok"),
]


@pytest.mark.parametrize("row, text, status", ROWS)
def test_the_text_of_a_row(row: dict[str, Any], text: str, status: str) -> None:
    assert FIELDS.text_of(row) == (text, status)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["content", "value", "text", "x"]), inner, max_size=3)
    ),
)


@given(row=st.dictionaries(st.sampled_from("abc"), json_values))
def test_no_row_is_an_error(row: dict[str, Any]) -> None:
    text, status = FIELDS.text_of(row)
    assert status in ("ok", "empty", "missing", "not_text")
    assert bool(text.strip()) == (status == "ok")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_detected(layout: str) -> None:
    first, *rest = LAYOUTS[layout]
    columns = {"id": 9, **dict.fromkeys(reversed(rest), 4), first: 9}
    found = find_text_fields(columns, None, "rows.jsonl", "--field")
    assert found == TextFields(layout, LAYOUTS[layout])
    assert find_text_fields({first: 1}, None, "rows.jsonl", "--field").fields == (first,)


def test_the_layout_of_most_rows_is_taken() -> None:
    columns = {"instruction": 2, "text": 7, "output": 2}
    assert find_text_fields(columns, None, "rows.jsonl", "--field").layout == "text"
    columns["instruction"] = 7  # as many: the more telling layout
    assert find_text_fields(columns, None, "rows.jsonl", "--field").fields == (
        "instruction",
        "output",
    )


def test_fields_that_are_not_there_are_answered_with_the_columns() -> None:
    columns = {"body": 3, "id": 3, "instructions": 3}
    with pytest.raises(InputError, match=r"--field: body, id, instructions"):
        find_text_fields(columns, None, "rows.jsonl", "--field")
    with pytest.raises(InputError, match=r"'instruction'; its columns are instructions, body, id"):
        find_text_fields(columns, "body+instruction", "rows.jsonl", "--field")
    assert find_text_fields(columns, "id+body", "rows.jsonl", "--field").fields == ("id", "body")


# Statistics


def test_spearman_by_hand() -> None:
    rising = [1.0, 2.0, 3.0, 4.0]
    assert spearman(rising, [10.0, 20.0, 25.0, 90.0]) == pytest.approx(1)
    assert spearman(rising, [3.0, 2.0, 1.0, 0.0]) == pytest.approx(-1)
    # Ranks 1.5 1.5 3 4 and 1 2 3 4: covariance 4.5, variances 4.5 and 5.
    assert spearman([5.0, 5.0, 7.0, 9.0], rising) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman([1.0] * 4, rising) is None
    assert spearman([1.0], [2.0]) is None and spearman([], []) is None


@given(
    pairs=st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=20),
)
def test_spearman_sees_only_order(pairs: list[tuple[int, int]]) -> None:
    x, y = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    found = spearman(x, y)
    assert (found is None) == (len(set(x)) == 1 or len(set(y)) == 1)
    if found is not None:
        assert -1 - 1e-12 <= found <= 1 + 1e-12
        assert spearman([a**3 for a in x], y) == pytest.approx(found)
        assert spearman([-a for a in x], y) == pytest.approx(-found)


def test_quantiles_are_linear_between_neighbours() -> None:
    found = quantiles([4.0, 1.0, 2.0, 3.0, 5.0])
    assert found is not None
    assert found["mean"] == found["median"] == 3
    assert (found["min"], found["p25"], found["max"]) == (1, 2, 5)
    assert found["p5"] == pytest.approx(1.2) and found["p95"] == pytest.approx(4.8)
    assert quantiles([]) is None
