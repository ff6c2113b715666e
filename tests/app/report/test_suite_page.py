"""Fronts against L0, and the page of a suite."""

import copy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sparsteer.app.report.files import require_page_replaceable
from sparsteer.app.report.fronts import Point, front, fronts_of
from sparsteer.app.report.inline import PAGE
from sparsteer.app.report.measures import suite_figure
from sparsteer.app.report.plots import Drawing
from sparsteer.app.report.suite_page import (
    PAGE_FILE,
    fronts,
    suite_page,
    write_suite_page,
)
from sparsteer.sae.common.errors import InputError


def figure(value: float | None, error: float | None = None, **changes: Any) -> dict[str, Any]:
    usual = {"value": value, "standard_error": error, "interval": None, "heading": "H"}
    return {**usual, "digits": 2, "percent": False, "in_table": True, **changes}


def autoencoder(name: str, l0: float, fvu: float, **changes: Any) -> dict[str, Any]:
    figures = {
        "l0": figure(l0),
        "fvu": figure(fvu, 0.01, heading="FVU"),
        "loss_recovered": figure(1 - fvu / 2, 0.02, percent=True),
    }
    return {
        "name": name,
        "baseline": None,
        "activation": "topk",
        "n_latents": 512,
        "prefixes": [],
        "parts": {"held_out": {"figures": figures, "warnings": []}},
        **changes,
    }


@pytest.fixture
def result(tmp_path: Path) -> dict[str, Any]:
    return {
        "folder": str(tmp_path),
        "cache": "caches/news",
        "parts": {"held_out": {"heading": "held-out text", "reading": "Read it so."}},
        "autoencoders": [
            autoencoder("<b>k32", 32, 0.3),
            autoencoder("k64", 64, 0.2),
            autoencoder("pca L0 32", 32, 0.5, baseline="pca"),
        ],
        "seeds": [],
    }


def texts(drawing: Drawing) -> list[str]:
    root = ElementTree.fromstring(drawing.svg)
    return [
        "".join(part.itertext()).strip() for part in root.iter("{http://www.w3.org/2000/svg}text")
    ]


def test_a_front_names_its_families_and_axis() -> None:
    points = [Point(family=f, l0=l0, value=1 / l0, error=0.01) for f in "ab" for l0 in (8.0, 2.0)]
    drawing = front("F against L0", "F (nats)", points)
    assert drawing is not None
    shown = texts(drawing)
    assert {"a", "b", "F (nats)", "L0 (latents active per row)"} <= set(shown)
    reordered = front("F against L0", "F (nats)", [*points[1::-1], *points[2:]])
    assert reordered is not None and reordered.svg == drawing.svg


def test_what_cannot_be_drawn_is_no_front() -> None:
    assert front("F", "F", []) is None
    alone = [Point(family="a", l0=0.0, value=0.5), Point(family="a", l0=3.0, value=0.5)]
    assert front("F", "F", alone) is None


def test_fronts_of_an_evaluation() -> None:
    one = {
        **{
            "activation": "topk",
            "n_latents": 64,
            "l0": 4.0,
            "fvu": 0.3,
            "fvu_standard_error": None,
        },
        "language_model": None,
    }
    losses = {"loss_recovered": 0.9, "loss_recovered_standard_error": None}
    assert list(fronts_of([one, {**one, "l0": 8.0}])) == ["fvu"]
    both = fronts_of([{**one, "language_model": losses}] * 2)
    assert list(both) == ["fvu", "recovered"]
    unknown = {**one, "language_model": {**losses, "loss_recovered": None}}
    assert list(fronts_of([unknown] * 2)) == ["fvu"]


def test_the_page(result: dict[str, Any]) -> None:
    drawn = list(fronts(result, PAGE))
    assert len(drawn) == 2
    page = suite_page(result, drawn)
    assert page.count("<svg") == 2 and "<script" not in page and "<b>k32" not in page
    assert "2 autoencoders and 1 baseline, measured on the cache caches/news" in page
    for value in ("0.30 ± 0.01", "85.00 ± 2.00%", "pca L0 32", "Read it so."):
        assert value in page
    assert "topk, 512 latents" in page
    result["autoencoders"][0]["parts"]["held_out"]["warnings"] = ["too few"]
    assert "&lt;b&gt;k32: too few." in suite_page(result, [])


def test_probing_has_fronts_where_it_was_measured(result: dict[str, Any]) -> None:
    for one in result["autoencoders"]:
        figures = {"k1": figure(0.7, heading="k=1"), "k5": figure(0.8, heading="k=5")}
        figures["k9"] = figure(0.9, in_table=False)
        one["parts"]["probing"] = {"figures": figures, "warnings": []}
    captions = [caption for _, caption in fronts(result, PAGE)]
    assert len(captions) == 4 and captions[2].startswith("Probing, k=1 against L0")


def test_seeds_are_one_row_more(result: dict[str, Any]) -> None:
    shown = {"heading": "FVU", "digits": 3, "percent": False, "in_table": True}
    figures = {"fvu": {"mean": 0.25, "spread": 0.0123, "seeds": 2, **shown}}
    result["seeds"] = [{"name": "k*", "members": ["a", "b"], "parts": {"held_out": figures}}]
    page = suite_page(result, [])
    assert "k* (2 seeds)" in page and "0.250 ± 0.012" in page


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, ""),
        (figure(None), "\N{EN DASH}"),
        (figure(0.123), "0.12"),
        (figure(0.123, 0.02, percent=True, digits=1), "12.3 ± 2.0%"),
        (figure(0.5, interval=(0.4, 0.6)), "0.50 [0.40, 0.60]"),
    ],
)
def test_figures_as_they_are_shown(given: dict[str, Any] | None, shown: str) -> None:
    assert suite_figure(given) == shown


def test_the_page_replaces_its_own_alone(result: dict[str, Any], tmp_path: Path) -> None:
    require_page_replaceable(tmp_path / PAGE_FILE)
    path = write_suite_page(copy.deepcopy(result), with_plots=False)
    assert "<svg" not in path.read_text()
    require_page_replaceable(tmp_path / PAGE_FILE)
    path.write_text("mine")
    with pytest.raises(InputError, match="not of sparsteer's making"):
        require_page_replaceable(tmp_path / PAGE_FILE)
    require_page_replaceable(tmp_path / PAGE_FILE, force=True)
