"""One sentence for each kind of fault, and the setting's name in the error."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.common.validation import (
    require_boolean,
    require_choice,
    require_finite,
    require_given,
    require_in_range,
    require_integer,
    require_positive,
    require_positive_integer,
    require_ratio,
    require_text,
    require_text_field,
    require_tuple,
)

from_0_to_1 = partial(require_in_range, low=0.0, high=1.0)
below_1 = partial(require_in_range, low=0.0, high=1.0, below_high=True)
one_of_three = partial(require_choice, choices=("a", "b", "c"))


@pytest.mark.parametrize(
    ("require", "right", "wrong"),
    [
        (require_positive_integer, [1, 2**63 - 1], [0, -1, 1.0, "1", None, True, 2**63]),
        (partial(require_integer, least=0), [0, 7], [-1, False, math.nan]),
        (from_0_to_1, [0, 1, 0.5], [math.nan, math.inf, -0.1, 1.1, "1", None, True]),
        (below_1, [0.0, 0.99], [1.0, -0.1, math.nan, False]),
        (require_ratio, [1e-9, 1, 1.0], [0, 0.0, 1.01, math.nan, True]),
        (require_finite, [0, -2.5, 10**300], [math.inf, math.nan, 10**400, "2", True]),
        (require_positive, [1e-300, 3], [0, -1.0, math.inf, math.nan, True]),
        (require_boolean, [True, False], [0, 1, None, "true"]),
        (require_text, ["", "é"], ["\ud800", 5, None]),
        (require_given, ["a"], ["", " \n", 5, None]),
        (require_text_field, ["a", "a+b.c", None], ["", "a+", "+"]),
        (require_tuple, [(), ("a", "b")], ["ab"]),
        (one_of_three, ["a", "c"], ["d", "", None, 1]),
    ],
)
def test_wrong_values_are_refused(
    require: Callable[[str, Any], None], right: list[Any], wrong: list[Any]
) -> None:
    for value in right:
        require("setting", value)
    for value in wrong:
        with pytest.raises(InputError, match=r"^setting is ") as caught:
            require("setting", value)
        assert caught.value.field == "setting" and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("require", "value", "sentence"),
    [
        (require_positive_integer, True, "k is True, but must be a whole number of at least 1"),
        (require_positive_integer, 2**63, f"k is {2**63}, but must be at most 2^63 - 1"),
        (from_0_to_1, 1.5, "k is 1.5, but must be between 0 and 1"),
        (below_1, 1.0, "k is 1.0, but must be at least 0 and below 1"),
        (require_ratio, 0.0, "k is 0.0, but must be above 0 and at most 1"),
        (
            require_finite,
            10**400,
            "k is a number of hundreds of digits, but must be a finite number",
        ),
        (require_positive, -1, "k is -1, but must be above 0"),
        (require_given, " ", "k is empty; give a value"),
        (one_of_three, "d", "k is 'd'; choose a, b or c"),
        (require_tuple, "a", "k is the text 'a'; give a tuple: ('a',)"),
    ],
)
def test_the_sentences(require: Callable[[str, Any], None], value: Any, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        require("k", value)
    assert str(caught.value) == sentence
