"""Picks: round trips, changes, and files that do not belong."""

import json
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.common.locks import hold
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.fingerprint import sae_fingerprint
from sparsteer.steering.features import Pick, Picks
from sparsteer.steering.features.config import PickConfig
from sparsteer.steering.features.picking import change_picks

SAE = "a" * 64

picks_of_any_kind = st.builds(
    Pick,
    feature=st.integers(0, 10**6),
    label=st.text(st.characters(exclude_categories=["Cs"])),
    note=st.text(st.characters(exclude_categories=["Cs"])),
    strength=st.floats(allow_nan=False, allow_infinity=False),
)


@given(picks=st.lists(picks_of_any_kind, unique_by=lambda pick: pick.feature))
def test_what_is_saved_comes_back(
    tmp_path_factory: pytest.TempPathFactory, picks: list[Pick]
) -> None:
    folder = tmp_path_factory.mktemp("picks")
    given = Picks(SAE, tuple(picks))
    given.save(folder)
    assert Picks.load(folder, sae=SAE) == given
    assert Picks.load(folder / "picks.json", sae=SAE) == given
    assert [path.name for path in folder.iterdir()] == ["picks.json"]


def test_the_file_format(tmp_path: Path) -> None:
    Picks(SAE, (Pick(feature=3, label="rude", note="see docs", strength=-1.5),)).save(
        tmp_path / "mine.json"
    )
    values = json.loads((tmp_path / "mine.json").read_text())
    assert len(values.pop("sha256")) == 64
    assert values == {
        "format": "sparsteer-picks",
        "version": 2,
        "sae": SAE,
        "picks": [{"feature": 3, "label": "rude", "note": "see docs", "strength": -1.5}],
    }


def test_adding_again_replaces_in_place() -> None:
    picks = Picks(SAE).add(Pick(feature=1)).add(Pick(feature=2)).add(Pick(feature=1, label="new"))
    assert [(pick.feature, pick.label) for pick in picks.picks] == [(1, "new"), (2, "")]
    assert [pick.feature for pick in picks.remove(1).picks] == [2]
    with pytest.raises(InputError, match=r"feature 9 is not picked; picked are: 1, 2"):
        picks.remove(9)


def content(**changes: Any) -> dict[str, Any]:
    return {"format": "sparsteer-picks", "version": 1, "sae": SAE, "picks": [], **changes}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (content(sae="b" * 64), "another autoencoder"),
        (content(format="picks"), "no picks file"),
        (content(version=3, sha256=None), "has changed since it was written"),
        (content(picks={"feature": 1}), "no list of picks"),
        (content(picks=[7]), "pick 1 is no object"),
        (content(picks=[{"feature": 1}, {"label": "x"}]), r"pick 2: the key 'feature' is missing"),
        (content(picks=[{"feature": 1, "lable": "x"}]), "did you mean label"),
        (content(picks=[{"feature": -1}]), "pick 1: feature is -1"),
        (content(picks=[{"feature": True}]), "pick 1: feature is True"),
        (content(picks=[{"feature": 1, "strength": "big"}]), "strength is 'big'"),
        (content(picks=[{"feature": 1, "label": 5}]), "label is 5"),
        (
            content(picks=[{"feature": 1, "strength": 10**400}]),
            "pick 1: strength is a number of hun",
        ),
        (
            content(picks=[{"feature": 1, "note": "\ud800"}]),
            r"pick 1: note is '\\ud800', which is no",
        ),
        (content(picks=[{"feature": 1}, {"feature": 1}]), "twice"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_files_that_do_not_belong(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    (tmp_path / "picks.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        Picks.load(tmp_path, sae=SAE)


def test_an_edit_by_hand_is_found_and_can_be_accepted(tmp_path: Path) -> None:
    Picks(SAE, (Pick(feature=3, strength=-1.5),)).save(tmp_path)
    path = tmp_path / "picks.json"
    edited = path.read_text().replace("-1.5", "-3.5")
    path.write_text(edited)
    with pytest.raises(InputError, match=r"has changed .* take its sha256 out and make its vers"):
        Picks.load(tmp_path, sae=SAE)
    values = json.loads(edited)
    del values["sha256"]
    path.write_text(json.dumps(values | {"version": 1}))
    accepted = Picks.load(tmp_path, sae=SAE)
    assert accepted.picks == (Pick(feature=3, strength=-3.5),)
    accepted.save(tmp_path)
    assert json.loads(path.read_text())["version"] == 2


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"add one with `sparsteer pick {tmp_path} add N`"):
        Picks.load(tmp_path, sae=SAE)
    (tmp_path / "picks.json").write_text('{"picks": [NaN]}')
    with pytest.raises(InputError, match="not valid JSON"):
        Picks.load(tmp_path, sae=SAE)


@pytest.mark.parametrize("strength", [math.nan, math.inf, -math.inf])
def test_a_strength_must_be_finite(strength: float) -> None:
    with pytest.raises(InputError, match="strength"):
        Pick(feature=1, strength=strength)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    SparseAutoencoder(TopKConfig(4, 10, 2)).save(tmp_path / "sae")
    return tmp_path


def change(run: Path, action: Any, *feature: int, **given: Any) -> Picks:
    return change_picks(PickConfig(run=str(run), action=action, feature=feature, **given))


def test_changing_the_picks_of_a_run(run: Path) -> None:
    assert change(run, "list").picks == ()
    assert not (run / "picks.json").exists(), "listing writes nothing"
    change(run, "add", 3, label="three", strength=2.0)
    change(run, "add", 9)
    changed = change(run, "add", 3, note="kept the rest")
    assert changed.picks == (
        Pick(feature=3, label="three", note="kept the rest", strength=2.0),
        Pick(feature=9),
    )
    assert change(run, "remove", 3).picks == (Pick(feature=9),)
    fingerprint = sae_fingerprint(SparseAutoencoder.load(run))
    assert Picks.load(run, sae=fingerprint) == change(run, "list")


@pytest.mark.parametrize("each", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_no_pick_of_two_processes_is_lost(tmp_path: Path, each: int) -> None:
    SparseAutoencoder(TopKConfig(4, 2 * each, 2)).save(tmp_path / "sae")

    def add(first: int) -> None:
        for feature in range(first, 2 * each, 2):
            change(tmp_path, "add", feature)

    forked = multiprocessing.get_context("fork")
    processes = [forked.Process(target=add, args=(first,)) for first in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    found = sorted(pick.feature for pick in change(tmp_path, "list").picks)
    assert found == list(range(2 * each))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picks.json", "picks.sqlite", "sae"]


def test_picks_wait_for_another_process_only_so_long(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsteer.steering.features.picking.PATIENCE", 0.0)
    with (
        hold(run / "picks.json"),
        pytest.raises(InputError, match=r"another process is writing .*; give the same command"),
    ):
        change(run, "add", 3)
    change(run, "add", 3)


def test_several_features_at_once(run: Path) -> None:
    change(run, "add", 5, label="five")
    picks = change(run, "add", 3, 5, 4, strength=-1.5).picks
    assert [pick.feature for pick in picks] == [5, 3, 4]
    assert {pick.strength for pick in picks} == {-1.5} and picks[0].label == "five"
    with pytest.raises(InputError, match="no feature 10"):
        change(run, "add", 6, 10)
    assert change(run, "list").picks == picks, "all or none"
    assert [pick.feature for pick in change(run, "remove", 5, 4).picks] == [3]


def test_picks_do_not_outlive_their_autoencoder(run: Path) -> None:
    change(run, "add", 3)
    SparseAutoencoder(TopKConfig(4, 10, 2), seed=1).save(run / "sae")
    for action, *feature in (("list",), ("add", 4), ("remove", 3)):
        with pytest.raises(InputError, match="another autoencoder"):
            change(run, action, *feature)


@pytest.mark.parametrize("target", ["unmounted/picks.json", "picks.json"])
def test_a_link_to_nothing_is_not_replaced(run: Path, target: str) -> None:
    (run / "picks.json").symlink_to(target)
    with pytest.raises(InputError, match="is a symbolic link to nothing; mend it"):
        change_picks(PickConfig(run=str(run), action="add", feature=(3,)))
    assert (run / "picks.json").is_symlink()


def test_an_unknown_feature_names_the_range(run: Path) -> None:
    with pytest.raises(InputError, match=r"no feature 10.*0 to 9"):
        change(run, "add", 10)
    with pytest.raises(InputError, match=r"no feature -1.*0 to 9"):
        change(run, "add", -1)
    with pytest.raises(InputError, match="not picked; picked are: none"):
        change(run, "remove", 1)


def test_a_folder_without_an_autoencoder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json; give the folder of a trained"):
        change(tmp_path, "list")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action": "add"}, r"pick add needs the number of a feature: sparsteer pick R add N"),
        ({"action": "remove"}, "pick remove needs"),
        ({"action": "list", "feature": (3,)}, "takes no feature"),
        ({"action": "remove", "feature": (3,), "label": "x"}, "label goes with pick add"),
        ({"action": "list", "strength": 1.0}, "strength goes with pick add"),
        ({"action": "drop", "feature": (3,)}, "action is 'drop'"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PickConfig(run="R", **settings)
