"""Checks of single settings, with one sentence for each kind of fault; imports no torch.

Each function takes the name of the setting and its value, and raises an InputError that carries the
name as its `field`. True and False are never taken for numbers.
"""

import math
from collections.abc import Sequence
from typing import cast

from .errors import InputError

_LARGEST_INTEGER = 2**63 - 1


def require_positive_integer(field: str, value: object) -> None:
    """Raise an InputError unless the value is an integer of at least 1."""
    require_integer(field, value, least=1)


def require_integer(field: str, value: object, *, least: int, most: int | None = None) -> None:
    """Raise an InputError unless the value is an integer of at least so much, at most so much, and
    one that a tensor of integers can hold."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise wrong(field, value, f"a whole number of at least {least}")
    if value > _LARGEST_INTEGER:
        raise InputError(f"{field} is {value}, but must be at most 2^63 - 1", field=field)
    if most is not None and value > most:
        raise InputError(f"{field} is {value:,}; give at most {most:,}", field=field)


def require_in_range(
    field: str,
    value: object,
    *,
    low: float,
    high: float,
    above_low: bool = False,
    below_high: bool = False,
) -> None:
    """Raise an InputError unless the value is a number from low to high.

    Args:
        field, value: the setting.
        low, high: the ends, which are allowed themselves.
        above_low: whether `low` itself is refused.
        below_high: whether `high` itself is refused.
    """
    inside = _is_number(value) and low <= cast(float, value) <= high  # NaN fails both comparisons
    if inside and not (above_low and value == low) and not (below_high and value == high):
        return
    span = f"between {low:g} and {high:g}"
    if above_low or below_high:
        span = f"above {low:g}" if above_low else f"at least {low:g}"
        span += f" and below {high:g}" if below_high else f" and at most {high:g}"
    raise wrong(field, value, span)


def require_ratio(field: str, value: object) -> None:
    """Raise an InputError unless the value is a number above 0 and at most at 1."""
    require_in_range(field, value, low=0.0, high=1.0, above_low=True)


def require_finite(field: str, value: object, needed: str = "a finite number") -> None:
    """Raise an InputError unless the value is a finite number that a float holds.

    `needed` says what may be given, where that is more than a finite number.
    """
    try:
        finite = _is_number(value) and math.isfinite(cast(float, value))
    except OverflowError:
        raise InputError(
            f"{field} is a number of hundreds of digits, but must be {needed}", field=field
        ) from None
    if not finite:
        raise wrong(field, value, needed)


def require_positive(field: str, value: object) -> None:
    """Raise an InputError unless the value is a finite number above 0."""
    require_finite(field, value)
    if cast(float, value) <= 0:
        raise wrong(field, value, "above 0")


def require_boolean(field: str, value: object) -> None:
    """Raise an InputError unless the value is True or False."""
    if not isinstance(value, bool):
        raise wrong(field, value, "true or false")


def require_text(field: str, value: object) -> None:
    """Raise an InputError unless the value is text that a file can hold."""
    if not isinstance(value, str):
        raise wrong(field, value, "text")
    if any(0xD800 <= ord(character) < 0xE000 for character in value):
        raise InputError(
            f"{field} is {value!r}, which is not UTF-8; write it in UTF-8", field=field
        )


def require_given(field: str, value: object) -> None:
    """Raise an InputError unless the value is text with more in it than spaces."""
    if not isinstance(value, str):
        raise wrong(field, value, "text")
    if not value.strip():
        raise InputError(f"{field} is empty; give a value", field=field)


def require_tuple(field: str, value: object) -> None:
    """Raise an InputError if the value is a single text where a tuple of texts is needed."""
    if isinstance(value, str):
        raise InputError(f"{field} is the text {value!r}; give a tuple: ({value!r},)", field=field)


def require_choice(field: str, value: object, choices: Sequence[str]) -> None:
    """Raise an InputError unless the value is one of the choices, at least two."""
    if value not in choices:
        shown = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise InputError(f"{field} is {value!r}; choose {shown}", field=field)


def require_text_field(field: str, value: str | None) -> None:
    """Raise an InputError unless the value names the fields of a row that hold its text, joined by
    `+`, or is None."""
    if value is not None and not all(value.split("+")):
        raise InputError(
            f"{field} is {value!r}; give a field's name, or several as A+B", field=field
        )


def wrong(field: str, value: object, needed: str) -> InputError:
    """The error that says what the value is, and what it must be."""
    return InputError(f"{field} is {value!r}, but must be {needed}", field=field)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
