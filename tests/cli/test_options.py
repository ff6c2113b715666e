"""The surface of the command: its verbs and their options may change only on purpose."""

from pathlib import Path

import pytest

from sparsteer.cli.main import VERBS

FROZEN = Path(__file__).parent / "options.txt"


def surface() -> str:
    """Every option of every verb, a line each: name, what it takes, whether it is required."""
    lines: list[str] = []
    for name, verb in VERBS.items():
        lines.append(f"sparsteer {name}")
        for option in verb.options().values():
            takes = "" if option.is_switch or option.positional else f" {option.metavar}"
            lines.append(f"  {option.shown}{takes}{' (required)' if option.required else ''}")
    return "\n".join(lines) + "\n"


def test_the_surface_is_the_frozen_one() -> None:
    """After a change on purpose: write `surface()` to tests/cli/options.txt."""
    assert surface() == FROZEN.read_text()


@pytest.mark.parametrize("name", VERBS)
def test_every_option_is_explained(name: str) -> None:
    for option in VERBS[name].options().values():
        assert option.help.endswith("."), option
        assert "\n" not in option.help
    assert VERBS[name].summary.endswith(".")


@pytest.mark.parametrize("name", VERBS)
def test_no_two_fields_share_a_flag(name: str) -> None:
    """A nested configuration lies flat, so that its fields must not repeat outer ones."""
    shown = [option.name for option in VERBS[name].options().values()]
    assert len(shown) == len(set(shown))
