"""The surface of the command: its verbs and their options may change only on purpose."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from sparsteer.cli.main import VERBS
from sparsteer.cli.options import options_of
from sparsteer.sae.common.registry import Registry

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


SHAPES: Registry[float] = Registry("shape", "sparsteer.test_shapes", {"ball": "math:pi"})


@dataclass(frozen=True, kw_only=True)
class ShapeConfig:
    """A configuration with names of a registry."""

    shape: Annotated[str, SHAPES] = "ball"
    """A shape."""
    shapes: tuple[Annotated[str, SHAPES, "all"], ...] = ()
    """Several, or all."""
    other: Annotated[str, SHAPES] | None = None
    """Another one."""


def test_names_of_a_registry_are_the_choices_of_an_option() -> None:
    options = options_of(ShapeConfig)
    assert options["shape"].choices == options["other"].choices == ("ball",)
    assert options["shapes"].is_list
    assert options["shapes"].choices == ("ball", "all")
    SHAPES.register("cube", 1.0)
    assert options_of(ShapeConfig)["shape"].choices == ("ball", "cube")
