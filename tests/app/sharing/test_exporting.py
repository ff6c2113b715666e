"""Which features are shared, and what becomes of the folder."""

import os
from pathlib import Path
from typing import Any

import pytest

from sparsteer.app.sharing import exporting
from sparsteer.app.sharing.chosen import Chosen
from sparsteer.app.sharing.config import ShareConfig
from sparsteer.app.sharing.exporting import MARK, export_features
from sparsteer.sae import InputError
from sparsteer.steering.features import FeatureIndex, Pick, Picks
from sparsteer.steering.features.listing import ranked


def exported(run: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    settings = {"examples": 3, **settings}
    return export_features(ShareConfig(run=str(run), static=str(folder), **settings))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_features_that_are_chosen(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = FeatureIndex(run)
    interesting = ranked(index, "interest")
    monkeypatch.setattr("sparsteer.app.sharing.chosen._MOST_INTERESTING", 3)
    assert exported(run, tmp_path / "a")["features"] == interesting[:3]
    with pytest.raises(InputError, match="nothing is picked"):
        exported(run, tmp_path / "b", picks=True)
    few = ShareConfig(run=str(run), static="c", all=True)
    assert Chosen(few).numbers == sorted(interesting)
    assert exported(run, tmp_path / "d", feature=(9, 2))["features"] == [9, 2]
    with pytest.raises(InputError, match="there is no feature 40"):
        exported(run, tmp_path / "e", feature=(40,))
    Picks(index.manifest["sae"], (Pick(feature=5), Pick(feature=3))).save(run)
    assert exported(run, tmp_path / "f")["features"] == [5, 3]
    Picks(index.manifest["sae"], (Pick(feature=5), Pick(feature=3, verdict="reject"))).save(run)
    assert exported(run, tmp_path / "g", picks=True)["features"] == [5]
    assert {path.name for path in tmp_path.iterdir()} == {*"adfg", "run"}


@pytest.mark.parametrize("layout", ["static", "neuronpedia", "saedashboard"])
def test_the_same_features_give_the_same_bytes(
    picked_run: Path, tmp_path: Path, layout: str
) -> None:
    values = exported(picked_run, tmp_path / "one", format=layout)
    exported(picked_run, tmp_path / "two", format=layout)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert values["files"] == len(contents(tmp_path / "one"))
    assert values["bytes"] == sum(map(len, contents(tmp_path / "one").values()))
    # Nothing says where on this machine the run is.
    for content in contents(tmp_path / "one").values():
        assert str(picked_run).encode() not in content


def test_another_export_is_only_replaced_by_force(run: Path, tmp_path: Path) -> None:
    exported(run, tmp_path / "out", feature=(1,))
    first = contents(tmp_path / "out")
    exported(run, tmp_path / "out", feature=(1,))
    assert contents(tmp_path / "out") == first
    with pytest.raises(InputError, match="another export; give --force"):
        exported(run, tmp_path / "out", feature=(2,))
    assert contents(tmp_path / "out") == first
    exported(run, tmp_path / "out", feature=(2,), force=True)
    assert contents(tmp_path / "out") != first


def test_nothing_else_is_ever_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file", "run", "."):
        with pytest.raises(InputError, match="static is"):
            exported(run, tmp_path / name, force=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "file", "run"}
    (tmp_path / "empty").mkdir()
    assert exported(run, tmp_path / "empty", feature=(1,))["files"]


def test_a_failure_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path, *rest: object) -> None:
        (folder / "half").write_text("x")
        raise OSError("the disk is gone")

    monkeypatch.setitem(exporting._WRITERS, "static", fail)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(OSError, match="the disk is gone"):
        exported(run, tmp_path / "out", feature=(1,))
    assert os.listdir(tmp_path) == ["run"]


def test_the_mark_says_what_is_there(run: Path, tmp_path: Path) -> None:
    exported(run, tmp_path / "out", feature=(1, 2), format="saedashboard")
    assert '"layout": "saedashboard"' in (tmp_path / "out" / MARK).read_text()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"picks": True, "all": True}, "all cannot stand beside --picks"),
        ({"picks": True, "feature": (1,)}, "feature cannot stand beside --picks"),
        ({"feature": (1, 1)}, "names 1 more than once"),
        ({"format": "html"}, "format is 'html'"),
        ({"model_id": "m"}, "belongs to --format neuronpedia"),
        ({"model_id": "../m", "format": "neuronpedia"}, "names a folder"),
        ({"source_set": "..", "format": "neuronpedia"}, "names a folder"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_settings(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ShareConfig(run="run", static="out", **settings)
