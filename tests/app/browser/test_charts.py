"""Plots: labeled, in proportion, and without anything that the content policy forbids."""

import re
from xml.etree import ElementTree

import pytest

from sparsteer.app.browser.charts import WIDTH, Axis, Band, Mark, Rug, histogram

EDGES = [0.5, 1.0, 2.0, 4.0]


def drawn(**changes: object) -> ElementTree.Element:
    values: dict[str, object] = {
        "title": 'of "a" & <b>',
        "edges": EDGES,
        "counts": [2, 8, 4],
        "x": Axis("activation <units>", 0.5, 4.0, logarithmic=True),
        "y_label": "firings",
        **changes,
    }
    return ElementTree.fromstring(str(histogram(**values)))  # pyright: ignore[reportArgumentType]


def bars(svg: ElementTree.Element) -> list[tuple[float, float, float]]:
    """Left end, width and height of each bar."""
    found: list[tuple[float, float, float]] = []
    for path in svg.findall("path"):
        if path.get("class", "").startswith("bar"):
            for bar in re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)h([\d.]+)", path.get("d", "")):
                left, floor, top, width = map(float, bar)
                found.append((left, width, floor - top))
    return sorted(found)


def test_bars_are_in_proportion() -> None:
    heights = [height for _, _, height in bars(drawn())]
    assert heights[0] == pytest.approx(heights[1] / 4, rel=0.02)
    assert heights[2] == pytest.approx(heights[1] / 2, rel=0.02)
    widths = [width for _, width, _ in bars(drawn())]
    assert widths == pytest.approx([widths[0]] * 3, rel=0.01)  # each doubles


def test_an_empty_bin_has_no_bar_and_one_of_many_still_shows() -> None:
    heights = [height for _, _, height in bars(drawn(counts=[0, 1, 100_000]))]
    assert len(heights) == 2
    assert heights[0] >= 1


def test_axes_are_labeled_and_text_is_escaped() -> None:
    svg = drawn(marks=[Mark(1.0, "<50%>")], rugs=[Rug("top", [1.0, 3.9])])
    texts = [text.text for text in svg.findall("text")]
    assert {"activation <units>", "firings", "<50%>", "top", "1", "2", "4"} <= set(texts)
    assert svg.get("aria-label") == 'of "a" & <b>'
    rug = next(path for path in svg.findall("path") if path.get("class") == "rug")
    assert rug.get("d", "").count("v8") == 2


def test_nothing_is_styled_inline_and_nothing_is_out_of_the_picture() -> None:
    svg = drawn(
        x=Axis("density", 1e-6, 1.0, logarithmic=True),
        edges=[1e-6, 1e-3, 1e-1, 1.0],
        bands=[Band(0.1, 1.0)],
        marks=[Mark(5.0, "beyond the end")],
    )
    for element in svg.iter():
        assert "style" not in element.attrib and not any(n.startswith("on") for n in element.attrib)
        if element.get("text-anchor") == "middle" and "transform" not in element.attrib:
            assert 0 <= float(element.get("x", "nan")) <= WIDTH
    assert [path.get("class") for path in svg.findall("path")].count("bar second") == 1


def test_names_of_marks_do_not_overlap() -> None:
    svg = drawn(marks=[Mark(3.7, "50%"), Mark(3.8, "99%"), Mark(4.0, "largest")])
    names = {text.text: text for text in svg.findall("text")}
    heights = [names[name].get("y") for name in ("50%", "99%", "largest")]
    assert len(set(heights)) == 3


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("a", 0, 10), [0, 2, 4, 6, 8, 10]),
        (Axis("a", 0.5, 8, logarithmic=True), [0.5, 1, 2, 4, 8]),
        (Axis("a", 1e-4, 1, logarithmic=True), [1e-4, 1e-3, 1e-2, 1e-1, 1]),
        (Axis("a", 3, 3), [3]),
    ],
)
def test_ticks_are_round(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)
