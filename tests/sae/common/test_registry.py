"""Entries of this package, of this process and of installed packages, chosen by name."""

import math
import sys
from pathlib import Path

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.common.registry import Registry

GROUP = "sparsteer.test_shapes"


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    """Shapes with an installed package beside them, one of whose two entries is broken."""
    folder = tmp_path / "toy_shapes-0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-shapes\nVersion: 0.1\n")
    (folder / "entry_points.txt").write_text(
        f"[{GROUP}]\ncube = toy_shapes:CUBE\ntorn = toy_shapes:NOTHING\nball = toy_shapes:CUBE\n"
    )
    (tmp_path / "toy_shapes.py").write_text('CUBE = "an installed cube"\n')
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return Registry("shape", GROUP, {"ball": "math:pi", "rod": "no_such_module:ROD"})


def test_entries_of_this_package_come_first(shapes: Registry[object]):
    assert shapes.get("ball") == math.pi
    assert shapes.names() == ("ball", "rod", "cube", "torn")


def test_an_installed_package_adds_entries(shapes: Registry[object]):
    assert shapes.get("cube") == "an installed cube"


def test_the_version_is_that_of_the_installed_package(shapes: Registry[object]):
    shapes.register("star", 5)
    names = ("cube", "ball", "star", "other")
    assert [shapes.version(name) for name in names] == ["0.1", None, None, None]
    assert shapes.without("ball", remedy="").version("cube") == "0.1"


def test_register_adds_and_replaces(shapes: Registry[object]):
    shapes.register("star", 5)
    shapes.register("ball", "round")
    assert (shapes.get("star"), shapes.get("ball")) == (5, "round")
    assert set(shapes.names()) == {"ball", "rod", "star", "cube", "torn"}


def test_a_name_is_checked_without_an_import(shapes: Registry[object]):
    assert shapes.require("rod") == "rod"


@pytest.mark.parametrize(
    ("name", "named"), [("cubes", "did you mean cube"), ("xyz", "ball, rod, cube, torn")]
)
def test_a_wrong_name_is_answered_with_the_right_ones(
    shapes: Registry[object], name: str, named: str
):
    with pytest.raises(InputError, match=f"shape is '{name}'.*{named}"):
        shapes.get(name)


@pytest.mark.parametrize("name", ["torn", "rod"])
def test_an_entry_that_cannot_be_imported_is_named(shapes: Registry[object], name: str):
    with pytest.raises(InputError, match=f"shape '{name}'.*cannot be imported"):
        shapes.get(name)
