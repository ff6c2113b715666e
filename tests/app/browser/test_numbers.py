"""Numbers in as many digits as mean something."""

import pytest

from sparsteer.app.browser.numbers import figures, rate


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (6.608381, "6.61"),
        (0.5, "0.500"),
        (0.01234, "0.0123"),
        (12.34, "12.3"),
        (123.4, "123"),
        (12345.6, "12,346"),
        (-2.5, "-2.50"),
        (0.00012, "1.2e-04"),
    ],
)
def test_figures(number: float, text: str) -> None:
    assert figures(number) == text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0, "0%"),
        (1, "100%"),
        (0.123, "12%"),
        (0.0283, "2.8%"),
        (0.00378, "0.38%"),
        (5e-6, "0.00050%"),
        (None, "\u2013"),
    ],
)
def test_rates(fraction: float | None, text: str) -> None:
    assert rate(fraction) == text
