"""Numbers of a feature in as many digits as mean something."""

from ...sae.common.wording import percent


def figures(number: int | float) -> str:
    """Three significant digits, without an exponent where that stays short: 0.0123, 6.61, 1,230."""
    if number == 0:
        return "0"
    size = abs(number)
    if size >= 1000:
        return f"{number:,.0f}"
    if size < 0.001:
        return f"{number:.1e}"
    digits = 2 if size >= 1 else 3 if size >= 0.1 else 4 if size >= 0.01 else 5
    if size >= 10:
        digits = 1 if size < 100 else 0
    return f"{number:.{digits}f}"


def rate(fraction: int | float | None) -> str:
    """A fraction in percent with two significant digits, however small: 12%, 0.38%, 0.0005%."""
    if fraction is None:
        return percent(None)
    value = 100 * fraction
    if value == 0 or value >= 10:
        return f"{value:.0f}%"
    if value < 0.0001:
        return f"{value:.0e}%"
    digits = next(n for n in range(1, 7) if value * 10 ** (n - 1) >= 1)
    return f"{value:.{digits}f}%"
