"""Plots as SVG that is made here: colors are classes of browser.css, and every axis has a label.

The size is in units of the drawing; a page scales it to the width that it has.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 440, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 10, 38, 44
_RUG_ROW = 13


@dataclass(frozen=True)
class Axis:
    """One axis of a plot."""

    label: str
    """What it measures, with its unit."""
    low: int | float
    high: int | float
    logarithmic: bool = False
    """Whether equal distances are equal factors; then low is above 0."""

    def at(self, value: int | float) -> float:
        """Where a value lies, 0 at low and 1 at high; what is beyond lies at the end."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low) if high > low else 0.0

    def ticks(self, wanted: int = 5) -> list[int | float]:
        """Round values between the ends, about so many."""
        if self.logarithmic:
            return _log_ticks(self.low, self.high, wanted)
        step = _round_step((self.high - self.low) / wanted) if self.high > self.low else 1
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Mark:
    """A line across the plot at a value, named at its top."""

    value: int | float
    name: str


@dataclass(frozen=True)
class Rug:
    """A row of short lines below the bars: where single values lie."""

    name: str
    values: Sequence[int | float]


@dataclass(frozen=True)
class Band:
    """A range of values whose bars have the second color."""

    low: int | float
    high: int | float


def histogram(
    title: str,
    edges: Sequence[int | float],
    counts: Sequence[int],
    x: Axis,
    y_label: str,
    *,
    marks: Sequence[Mark] = (),
    rugs: Sequence[Rug] = (),
    bands: Sequence[Band] = (),
    ticks_as: Callable[[int | float], str] = lambda value: f"{value:g}",
) -> Markup:
    """Bars of how many there are between edges.

    Args:
        title: read out in place of the plot.
        edges: one more than bars.
        counts: the height of each bar.
        x: the axis of the edges.
        y_label: what is counted.
        marks, rugs, bands: see there.
        ticks_as: the text of a tick of the x axis.
    """
    n_rugs = len(rugs)
    height = HEIGHT + n_rugs * _RUG_ROW
    frame = Frame(x, Axis(y_label, 0, max([*counts, 1])), height - _BOTTOM - n_rugs * _RUG_ROW)
    parts = [
        *frame.y_axis(),
        *_bars(frame, edges, counts, bands),
        *frame.x_axis(ticks_as, height, n_rugs),
        *_marks(frame, marks),
    ]
    for row, rug in enumerate(rugs):
        parts += _rug(frame, rug, frame.floor + 5 + row * _RUG_ROW)
    return Markup(
        f'<svg class="plot" role="img" viewBox="0 0 {WIDTH} {height}" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


@dataclass(frozen=True)
class Frame:
    """The two axes of a plot in the units of the drawing, and as marks of it."""

    x: Axis
    y: Axis
    floor: int | float
    """Where the x axis is."""

    def across(self, value: int | float) -> float:
        return _LEFT + self.x.at(value) * (WIDTH - _LEFT - _RIGHT)

    def up(self, value: int | float) -> float:
        return self.floor - self.y.at(value) * (self.floor - _TOP)

    def y_axis(self) -> Iterator[str]:
        right = WIDTH - _RIGHT
        for value in self.y.ticks(4):
            y = self.up(value)
            yield f'<path class="grid-line" d="M{_LEFT} {y:.1f}H{right}"/>'
            yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>'
        middle = (self.floor + _TOP) / 2
        yield (
            f'<text class="label" transform="translate(12 {middle:.0f}) rotate(-90)" '
            f'text-anchor="middle">{escape(self.y.label)}</text>'
        )

    def x_axis(
        self, shown: Callable[[int | float], str], height: int, n_rugs: int
    ) -> Iterator[str]:
        base = self.floor + n_rugs * _RUG_ROW
        yield f'<path class="axis" d="M{_LEFT} {self.floor:.1f}H{WIDTH - _RIGHT}"/>'
        for value in self.x.ticks():
            at = self.across(value)
            yield f'<path class="axis" d="M{at:.1f} {base:.1f}v4"/>'
            middle = min(at, WIDTH - 3.5 * len(shown(value)))
            yield (
                f'<text x="{middle:.1f}" y="{base + 17:.1f}" text-anchor="middle">'
                f"{shown(value)}</text>"
            )
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        yield (
            f'<text class="label" x="{middle:.0f}" y="{height - 8}" text-anchor="middle">'
            f"{escape(self.x.label)}</text>"
        )


def _bars(
    frame: Frame, edges: Sequence[int | float], counts: Sequence[int], bands: Sequence[Band]
) -> Iterator[str]:
    paths = {"bar": "", "bar second": ""}
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if not count:
            continue
        left, right, top = frame.across(low), frame.across(high), frame.up(count)
        top = min(top, frame.floor - 1)  # one of thousands can still be seen
        inside = any(band.low <= low and high <= band.high for band in bands)
        width = max(right - left - 1, 1)
        bar = f"M{left + 0.5:.1f} {frame.floor:.1f}V{top:.1f}h{width:.1f}V{frame.floor:.1f}z"
        paths["bar second" if inside else "bar"] += bar
    for name, path in paths.items():
        if path:
            yield f'<path class="{name}" d="{path}"/>'


def _marks(frame: Frame, marks: Sequence[Mark]) -> Iterator[str]:
    """Lines whose names stand side by side: one that would touch the last is moved up, at most to
    the third row."""
    end = [0.0, 0.0, 0.0]
    for mark in sorted(marks, key=lambda mark: mark.value):
        at = frame.across(mark.value)
        half = 3.4 * len(mark.name)
        middle = min(max(at, half), WIDTH - half)
        row = next((row for row, taken in enumerate(end) if middle - half >= taken), 2)
        end[row] = middle + half + 4
        y = _TOP - 4 - 12 * row
        yield f'<path class="mark" d="M{at:.1f} {frame.floor:.1f}V{_TOP}"/>'
        yield f'<text x="{middle:.1f}" y="{y}" text-anchor="middle">{escape(mark.name)}</text>'


def _rug(frame: Frame, rug: Rug, top: int | float) -> Iterator[str]:
    ticks = "".join(f"M{frame.across(value):.1f} {top:.1f}v8" for value in rug.values)
    yield (
        f'<text class="small" x="{_LEFT - 6}" y="{top + 8:.1f}" text-anchor="end">'
        f"{escape(rug.name)}</text>"
    )
    if ticks:
        yield f'<path class="rug" d="{ticks}"/>'


def _round_step(rough: int | float) -> float:
    """The next of 1, 2, 5, 10, 20, ... that is not smaller."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))


def _log_ticks(low: int | float, high: int | float, wanted: int) -> list[int | float]:
    """Powers of ten; of two where those would be fewer than three."""
    for base in (10.0, 2.0):
        first = math.ceil(math.log(low, base) - 1e-9)
        last = math.floor(math.log(high, base) + 1e-9)
        if last - first >= 2:
            break
    every = max(1, math.ceil((last - first + 1) / (wanted + 2)))
    return [base**n for n in range(first, last + 1, every)]


def _short(value: int | float) -> str:
    """A number in few characters: 0.25, 500, 20k, 1.5M."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e4 else f"{round(value, 9):g}"
