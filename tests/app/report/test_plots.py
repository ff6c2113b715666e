"""Plots as files: whole SVG with every name, number and axis that they should have."""

import re
import subprocess
import sys
import warnings
from xml.etree import ElementTree

import pytest

from sparsteer.app.report import plots
from sparsteer.app.report.plots import Drawing, Points, styles

FIRST: Points = [
    {"tokens": 1000 * i, "fvu": 1 / i, "l0": 30 + i, **({"held_out_fvu": 0.5} if i == 3 else {})}
    for i in range(1, 6)
]
SECOND: Points = [{"tokens": 500, "fvu": 0.7, "l0": 900}]
HISTOGRAM = {
    "log10_edges": [-6 + 0.25 * i for i in range(25)],
    "latents": [i % 7 for i in range(24)],
    "dead": 1234,
}


def texts(drawing: Drawing) -> list[str]:
    """The texts of a drawing, which is parsed for it."""
    root = ElementTree.fromstring(drawing.svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert any("#ffffff" in part.get("style", "") for part in root.iter())
    return [
        "".join(part.itertext()).strip() for part in root.iter("{http://www.w3.org/2000/svg}text")
    ]


@pytest.mark.parametrize("points", [[FIRST, SECOND], [SECOND], [[], FIRST]])
def test_curves(points: list[Points]) -> None:
    names = [f"run {i}" for i in range(len(points))]
    curves = list(zip(styles(names), points, strict=True))
    fvu, l0 = plots.fvu_curves(curves), plots.l0_curves(curves, 64)
    for name in names:
        assert f"{name}, training" in texts(fvu)
        assert f"{name}, training" in texts(l0)
    assert "rows trained on (thousands)" in texts(fvu)
    assert "width 64" in texts(l0)
    ends = [{"fvu": 0.4, "l0": 32}] * len(points)
    plane = texts(plots.fvu_against_l0(curves, ends, 64))
    assert "64 or more" in plane
    assert all(f"{name}, held out at the end" in plane for name in names)


def test_any_name_and_any_value_can_be_drawn() -> None:
    names = [r"a$\q$", "_run", "bell\x07", "x<b>&"]
    curves = [(style, FIRST) for style in styles(names)]
    shown = ["a$\\q$", "_run", "bell\ufffd", "x<b>&"]
    drawn = texts(plots.fvu_curves(curves))
    plane = plots.fvu_against_l0(curves, [{"fvu": 1.4, "l0": 32}] * 4, 64)
    for name in shown:
        assert f"{name}, training" in [text.strip("\u200b") for text in drawn]
        title = texts(plots.density(styles([name])[0], HISTOGRAM, 2000))
        assert name in [text.strip("\u200b") for text in title]
    assert {"1.2", "1.4"} & set(texts(plane))


def test_density_and_bars() -> None:
    (style,) = styles(["run"])
    shown = texts(plots.density(style, HISTOGRAM, 2000))
    assert {"1,234", "never", "all", "run"} <= set(shown)
    bars = plots.bars("losses", "nats", [("zeros", 9.876, None), ("with SAE", 3.2, style)], 2)
    assert {"9.88", "3.20", "zeros", "with SAE", "nats"} <= set(texts(bars))


def test_a_drawing_is_the_same_every_time() -> None:
    curves = [(styles(["a"])[0], FIRST)]
    one, other = plots.fvu_curves(curves), plots.fvu_curves(curves)
    assert one == other
    assert one.png() == other.png() and one.png().startswith(b"\x89PNG")


def test_many_looks_differ() -> None:
    many = styles([str(i) for i in range(21)])
    assert len({(style.color, style.dashes) for style in many}) == 21


def test_matplotlib_is_imported_for_a_plot_alone() -> None:
    code = "import sparsteer.app.report.plots, sys; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_legend_of_many_runs_with_long_names_covers_nothing() -> None:
    names = [f"run {i} {'of a long name ' * (i % 9)}" for i in range(30)]
    curves = [(style, FIRST) for style in styles(names)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where there is no room for the axes
        drawing = plots.fvu_against_l0(curves, [{"fvu": 0.4, "l0": 32}] * 30, 64)
    root = ElementTree.fromstring(drawing.svg)
    height = float(root.attrib["viewBox"].split()[3])
    heights = {
        "".join(text.itertext()): float(re.findall(r"[\d.]+", text.attrib["transform"])[-1])
        for text in root.iter("{http://www.w3.org/2000/svg}text")
    }
    axis = heights["L0 (latents active per row)"]
    assert axis > 150
    legend = [y for text, y in heights.items() if text.startswith("run ")]
    assert len(legend) == 30
    assert all(axis < y < height for y in legend)


@pytest.mark.parametrize("n_rows", [1, 7, 300])
def test_norms_of_rows_and_codes(n_rows: int) -> None:
    norms = {"row": [5 + 0.01 * i for i in range(n_rows)], "code": [4.0] * (n_rows - 1) + [900.0]}
    shown = texts(plots.zf(styles(["run"])[0], norms))
    assert {"run", "norm of a row (scaled units)", "norm of its code"} <= set(shown)
    if n_rows > 200:
        assert "10" not in shown and "8" in shown  # one row of enormous norm hides no others


def test_norms_that_are_all_zero_can_be_drawn() -> None:
    texts(plots.zf(styles(["run"])[0], {"row": [0.0, 0.0], "code": [0.0, 0.0]}))
