"""The texts of rows in every layout, and the statistics of scores."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae import InputError
from sparsteer.steering.selection.statistics import quantiles, spearman
from sparsteer.training.data.row_files.row_file import columns_of
from sparsteer.training.data.row_files.row_text import (
    ROW_LAYOUTS,
    TextFields,
    fields_of_columns,
    find_text_fields,
)

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


@pytest.mark.parametrize("layout", ROW_LAYOUTS)
def test_each_layout_is_detected(layout: str) -> None:
    columns = {"id": 9, **dict.fromkeys(reversed(ROW_LAYOUTS[layout]), 4), layout: 9}
    found = find_text_fields(columns, None, "rows.jsonl", "--field")
    assert found == TextFields(layout, ROW_LAYOUTS[layout])
    assert find_text_fields({layout: 1}, None, "rows.jsonl", "--field").fields == (layout,)


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


def test_quantiles_are_linear_between_neighbors() -> None:
    found = quantiles([4.0, 1.0, 2.0, 3.0, 5.0])
    assert found is not None
    assert found["mean"] == found["median"] == 3
    assert (found["min"], found["p25"], found["max"]) == (1, 2, 5)
    assert found["p5"] == pytest.approx(1.2) and found["p95"] == pytest.approx(4.8)
    assert quantiles([]) is None


CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Why"},
    {"role": "assistant", "content": "So"},
]


@pytest.mark.parametrize(
    "row, text, prompt",
    [
        ({"text": "t", "messages": CHAT}, "t", "Hi\n\nYes?\n\nWhy"),
        ({"messages": CHAT}, "Hi\n\nYes?\n\nWhy\n\nSo", "Hi\n\nYes?\n\nWhy"),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            "a\n\nb",
            "a",
        ),
        ({"instruction": "i", "input": "n", "output": 7}, "i\n\nn\n\n7", "i\n\nn"),
        ({"prompt": "p", "completion": "c"}, "p\n\nc", "p"),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "p\n\nc", "p"),
        ({"prompt": "Hi", "chosen": CHAT[:2], "rejected": "r"}, "Hi\n\nYes?", "Hi"),
        ({"prompt": CHAT[:1], "chosen": CHAT[1:2]}, "Hi\n\nYes?", "Hi"),
        ({"query": "q", "response": "r"}, "q\n\nr", "q"),
        ({"question": "q", "answer": "a"}, "q\n\na", "q"),
    ],
)
def test_layouts_of_corpora_and_prompts(row: dict[str, Any], text: str, prompt: str) -> None:
    columns = dict.fromkeys(row, 1)
    assert fields_of_columns(columns, None, "a.jsonl").text_of(row) == (text, "ok")
    prompts = fields_of_columns(columns, None, "a.jsonl", prefer="prompt", prompts=True)
    assert prompts.text_of(row) == (prompt, "ok")


def test_fields_in_objects_and_lists() -> None:
    row = {"data": {"text": "inner", "deep": {"a": "x"}}, "parts": [{"t": "one"}, {"t": "two"}, 3]}
    columns = dict.fromkeys(columns_of(row), 1)
    for field, text in [
        ("data.text", "inner"),
        ("data.deep.a", "x"),
        ("parts.t", "one\n\ntwo"),
        ("parts.t+data.text", "one\n\ntwo\n\ninner"),
    ]:
        found = find_text_fields(columns, field, "a.jsonl", "--field")
        assert found.text_of(row) == (text, "ok")
    assert TextFields("given", ("a.b",)).text_of({"a.b": "flat", "a": {"b": "n"}}).text == "flat"
    assert TextFields("given", ("data.b",)).text_of(row).status == "missing"
    assert TextFields("given", ("data.text",)).text_of({"data": None}).status == "empty"
    with pytest.raises(InputError, match=r"no column 'data\.texts'; its columns are data\.text"):
        find_text_fields(columns, "data.texts", "a.jsonl", "--field")


@pytest.mark.parametrize("layout", ["messages", "conversations"])
def test_a_text_in_place_of_messages_is_none(layout: str) -> None:
    fields = find_text_fields({layout: 2}, None, "a.jsonl", "--field")
    assert fields.text_of({layout: "oops"}) == ("", "not_text")
    assert fields.problem({layout: "oops"}, list) == (
        f'the field {layout!r} holds "oops" where text is needed'
    )


def test_a_number_is_text_only_beside_others() -> None:
    alone = fields_of_columns({"text": 1}, None, "a.jsonl")
    assert alone.text_of({"text": 7}).status == "not_text"
    beside = fields_of_columns({"question": 1, "answer": 1}, None, "a.jsonl")
    assert beside.text_of({"question": "6 + 1?", "answer": 7}) == ("6 + 1?\n\n7", "ok")
