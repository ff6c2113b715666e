"""Many points as a plot of shaded cells, so that 100,000 rows are as small a page as 100."""

from html import escape

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from .charts import HEIGHT, WIDTH, Axis, Frame

_ACROSS, _UP = 44, 24
_SHADES = 5
_FLOOR = HEIGHT - 44


def scatter(
    title: str,
    xs: Float[np.ndarray, "N"],
    ys: Float[np.ndarray, "N"],
    x: Axis,
    y: Axis,
    *,
    line: float | None = None,
    line_name: str = "",
) -> Markup:
    """Cells of the plane, darker where more points are.

    Args:
        title: read out in place of the plot.
        xs, ys: the points.
        x, y: the axes; what is beyond their ends lies at the end.
        line: a value of y with a line across, named `line_name`.
    """
    frame = Frame(x, y, _FLOOR)
    columns, rows = _cells(x, xs, _ACROSS), _cells(y, ys, _UP)
    cells, counts = np.unique(columns * _UP + rows, return_counts=True)
    most = np.log1p(counts.max()) if len(counts) else 1.0
    left, right = frame.across(x.low), frame.across(x.high)
    top, floor = frame.up(y.high), frame.up(y.low)
    width, height = (right - left) / _ACROSS, (floor - top) / _UP
    parts = [*frame.y_axis()]
    for cell, count in zip(cells.tolist(), counts.tolist(), strict=True):
        column, row = divmod(cell, _UP)
        shade = max(1, round(_SHADES * float(np.log1p(count)) / float(most)))
        parts.append(
            f'<rect class="d{shade}" x="{left + column * width:.1f}" '
            f'y="{floor - (row + 1) * height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
        )
    parts += frame.x_axis(lambda value: f"{value:g}", HEIGHT, 0)
    if line is not None:
        at = frame.up(line)
        parts.append(f'<path class="mark" d="M{left:.1f} {at:.1f}H{right:.1f}"/>')
        parts.append(
            f'<text x="{right:.1f}" y="{at - 4:.1f}" text-anchor="end">{escape(line_name)}</text>'
        )
    return Markup(
        f'<svg class="plot" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _cells(axis: Axis, values: Float[np.ndarray, "N"], n: int) -> Int[np.ndarray, "N"]:
    """Which of n equal parts of an axis each value lies in."""
    low, high = axis.low, axis.high
    values = values.clip(low, high)
    if axis.logarithmic:
        low, high, values = np.log(low), np.log(high), np.log(values)
    return np.minimum(n - 1, ((values - low) / ((high - low) or 1) * n).astype(int))
