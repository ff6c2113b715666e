"""The tables of an evaluation suite in Markdown."""

from typing import Any

from sparsteer.app.report.markdown import suite_tables


def figure(value: float | None) -> dict[str, Any]:
    return {
        "value": value,
        "heading": "absorbed",
        "standard_error": None,
        "interval": None,
        "digits": 1,
        "percent": True,
        "in_table": True,
    }


def result(warnings: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "parts": {"absorption": {"heading": "absorption", "reading": "Lower is better."}},
        "seeds": [],
        "autoencoders": [
            {
                "name": name,
                "parts": {
                    "absorption": {
                        "figures": {"absorbed": figure(None if found else 0.25)},
                        "warnings": found,
                    }
                },
            }
            for name, found in warnings.items()
        ],
    }


def test_a_missing_figure_has_its_reason_below_the_table() -> None:
    heading, table, reasons = suite_tables(result({"a": ["too few letters"], "b": []}))
    assert heading == "**Absorption.** Lower is better."
    assert "| a | \u2013 |" in table
    assert "| b | 25.0% |" in table
    assert reasons == "- a: too few letters."


def test_a_warning_about_all_is_said_once_and_none_says_nothing() -> None:
    *_, reasons = suite_tables(result({"a": ["too few letters"], "b": ["too few letters"]}))
    assert reasons == "- too few letters."
    assert len(list(suite_tables(result({"a": [], "b": []})))) == 2
