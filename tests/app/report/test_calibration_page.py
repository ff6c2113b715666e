"""What a calibration tried, drawn and as a page."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sparsteer.app.report.calibration_page import (
    calibration_drawing,
    calibration_page,
    shown_cost,
    write_calibration,
)


@pytest.fixture
def result() -> dict[str, Any]:
    return {
        "intervention": "fits/<b>rude",
        "budget": {"kind": "kl", "target": 0.5},
        "tolerance": 0.1,
        "strength": -4.0,
        "cost": 0.48,
        "met": True,
        "evaluations": [
            {"strength": -1.0, "cost": 0.03},
            {"strength": -16.0, "cost": None},
            {"strength": -4.0, "cost": 0.48},
        ],
        "measured_on": {
            **{"texts": 32, "file": None, "continuations": 1, "max_new_tokens": 20},
            **{"temperature": 1.0, "top_p": 0.9, "seed": 0, "statistic": "p95"},
        },
    }


def test_the_page_says_what_was_tried_and_chosen(result: dict[str, Any]) -> None:
    text = calibration_page(result, None)
    assert "fits/&lt;b&gt;rude" in text and "<b>rude" not in text
    assert "At -4 times its own strength" in text and "0.5 was wanted" in text
    assert "the model broke" in text and "95th percentile over tokens" in text
    assert "RealToxicityPrompts" in text
    assert "not met" not in text
    assert "not met" in calibration_page({**result, "met": False}, None)


def test_costs_are_shown_in_their_unit(result: dict[str, Any]) -> None:
    assert shown_cost(result, 0.5) == "0.5"
    fraction = {**result, "budget": {"kind": "perplexity", "target": 0.1}}
    assert shown_cost(fraction, 0.1) == "10%"
    assert shown_cost(fraction, None) == "the model broke"
    neutral = {"texts": 5, "file": "n.txt", "max_length": 128}
    text = calibration_page({**fraction, "measured_on": neutral}, None)
    assert "5 neutral texts of n.txt" in text


def test_nothing_is_drawn_where_no_strength_has_a_cost(result: dict[str, Any]) -> None:
    nothing = [{"strength": 1.0, "cost": 0.0}, {"strength": 2.0, "cost": None}]
    assert calibration_drawing({**result, "evaluations": nothing}) is None


def test_page_and_drawing_are_written(result: dict[str, Any], tmp_path: Path) -> None:
    paths = write_calibration(result, tmp_path)
    assert [path.name for path in paths] == ["calibration.html", "calibration.svg"]
    drawn = ElementTree.fromstring(paths[1].read_text())
    words = ["".join(n.itertext()).strip() for n in drawn.iter() if n.tag.endswith("}text")]
    assert "minus the strength (multiple of the intervention's own)" in words
    assert "-4" in words
    assert "<svg" in paths[0].read_text() and "://" not in paths[0].read_text()
