"""The store of picks: history and undo, edits by hand, several writers at once, kills."""

import json
import multiprocessing
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae import InputError
from sparsteer.steering.features import Pick, Picks
from sparsteer.steering.features.pick_history import CannotUndo
from sparsteer.steering.features.pick_store import PickStore

SAE = "c" * 64


def opened(folder: Path, *, patience: float = 10.0) -> PickStore:
    return PickStore(folder, sae=SAE, n_latents=5000, patience=patience)


@pytest.fixture
def store(tmp_path: Path) -> PickStore:
    return opened(tmp_path)


def test_a_change_keeps_the_rest_and_is_in_the_file(store: PickStore) -> None:
    store.change([4, 2], label="both", strength=2.0)
    store.change(4, starred=True, verdict="keep", confidence=3)
    expected = (
        Pick(feature=4, label="both", strength=2.0, starred=True, verdict="keep", confidence=3),
        Pick(feature=2, label="both", strength=2.0),
    )
    assert store.picks().picks == expected
    assert Picks.load(store.run, sae=SAE).picks == expected
    assert json.loads((store.run / "picks.json").read_text())["version"] == 3
    assert opened(store.run).picks().picks == expected, "another process reads the same"


def test_nothing_is_written_before_the_first_change(store: PickStore, tmp_path: Path) -> None:
    assert store.picks().picks == () and store.history() == [] and store.searches.all() == []
    assert list(tmp_path.iterdir()) == []
    assert store.change([]) is None
    store.change(1)
    assert store.change(1, label="") is None, "a change to what is there already is none"
    assert len(store.history()) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"verdict": "perhaps"}, "verdict is 'perhaps'"),
        ({"confidence": 6}, "confidence is 6, but must be a whole number from 1 to 5"),
        ({"confidence": 0}, "confidence is 0"),
        ({"confidence": True}, "confidence is True"),
        ({"starred": 1}, "starred is 1"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"label": "\ud800"}, "label is"),
        ({"feature": 3}, "there is no 'feature' of a pick to change"),
        ({"colour": "red"}, "there is no 'colour' of a pick to change"),
        ({"label_source": "oracle"}, "label_source is 'oracle'"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_values_change_nothing(store: PickStore, given: dict[str, Any], message: str) -> None:
    store.change(7, label="seven")
    before = (store.run / "picks.json").read_bytes()
    with pytest.raises(InputError, match=message):
        store.change([7, 8], **given)
    with pytest.raises(InputError, match=r"there is no feature 5000.*0 to 4999"):
        store.change([7, 5000], label="x")
    assert (store.run / "picks.json").read_bytes() == before
    assert len(store.history()) == 1


def test_undo_goes_back_step_by_step(store: PickStore) -> None:
    generator = random.Random(0)
    states = [store.picks()]
    for number in range(20):
        picked = [pick.feature for pick in store.picks().picks]
        if picked and generator.random() < 0.3:
            store.remove(generator.sample(picked, k=min(2, len(picked))))
        else:
            features = generator.sample(range(9), k=generator.randint(1, 3))
            store.change(
                features, strength=float(number), label=f"l{number}", starred=number % 2 == 0
            )
        states.append(store.picks())
    for state in reversed(states[:-1]):
        step = store.undo()
        assert step.undoes is not None
        assert store.picks() == state
        assert Picks.load(store.run, sae=SAE) == state
    with pytest.raises(CannotUndo, match="no change of the picks left to undo"):
        store.undo()


def test_undo_of_one_author_keeps_what_others_did(store: PickStore) -> None:
    store.change(3, author="tab 1", starred=True)
    store.change(3, author="tab 2", label="theirs")
    store.change(9, author="tab 2", verdict="reject")
    step = store.undo(author="tab 1", by="tab 1")
    assert [change.feature for change in step.changes] == [3]
    assert store.get(3) == Pick(feature=3, label="theirs"), "the label is not undone with the star"
    assert store.get(9) == Pick(feature=9, verdict="reject")
    with pytest.raises(CannotUndo, match="by tab 1 left to undo"):
        store.undo(author="tab 1")


def test_undo_refuses_to_overwrite(store: PickStore) -> None:
    store.change(3, author="a", label="mine", strength=2.0)
    store.change(3, author="b", label="theirs")
    with pytest.raises(CannotUndo, match="label of feature 3 has been changed since"):
        store.undo(author="a")
    store.remove(3, author="b")
    with pytest.raises(CannotUndo, match="feature 3 has been removed since"):
        store.undo(author="a")
    store.change(4, author="a")
    store.remove(4, author="a")
    store.change(4, author="b", label="anew")
    with pytest.raises(CannotUndo, match="feature 4 has been picked again since"):
        store.undo(author="a")
    assert store.get(4) == Pick(feature=4, label="anew")


def test_a_step_of_several_features_is_undone_whole_or_not(store: PickStore) -> None:
    store.change([1, 2, 3], author="a", strength=4.0)
    store.change(2, author="b", strength=5.0)
    before = store.picks()
    with pytest.raises(CannotUndo, match="strength of feature 2"):
        store.undo(author="a")
    assert store.picks() == before


def test_a_machine_label_does_not_replace_that_of_a_person(store: PickStore) -> None:
    store.change(1, label="by machine", label_source="machine")
    assert store.progress()["reviewed"] == 0
    store.change(1, label="better", label_source="machine")
    store.change(1, label="by hand")
    assert store.get(1) == Pick(feature=1, label="by hand")
    with pytest.raises(InputError, match="a label that a person wrote"):
        store.change(1, label="worse", label_source="machine")
    store.change(1, label="")
    store.change(1, label="again", label_source="machine")
    assert store.get(1) == Pick(feature=1, label="again", label_source="machine")


def test_progress_counts_what_a_person_looked_at(store: PickStore) -> None:
    store.change(1, starred=True)
    store.change(2, verdict="reject")
    store.change(3, label="x", verdict="keep")
    store.change(4, confidence=2)
    store.change(5, note="to look at again")
    assert store.progress() == {
        "features": 5000,
        "picked": 5,
        "reviewed": 4,
        "starred": 1,
        "kept": 1,
        "rejected": 1,
        "labeled": 1,
    }


def edit(store: PickStore, **changes: object) -> None:
    """Change the first pick in the file as a person with an editor does."""
    values = json.loads((store.run / "picks.json").read_text())
    del values["sha256"]
    values["picks"][0] |= changes
    (store.run / "picks.json").write_text(json.dumps(values | {"version": 1}))


def test_an_edit_by_hand_is_taken_in_and_can_be_undone(store: PickStore) -> None:
    store.change(1, label="one")
    first = store.revision
    edit(store, label="uno", note="edited")
    assert store.get(1) == Pick(feature=1, label="uno", note="edited")
    assert store.revision != first
    store.change(2)
    assert [step.author for step in store.history()] == ["command", "file", "command"]
    store.undo()
    store.undo()
    assert store.picks().picks == (Pick(feature=1, label="one"),)


def test_a_removed_file_is_a_change_that_can_be_undone(store: PickStore) -> None:
    store.change([1, 2, 3], label="kept")
    before = store.picks()
    (store.run / "picks.json").unlink()
    assert store.picks().picks == ()
    store.undo()
    assert store.picks() == before and Picks.load(store.run, sae=SAE) == before


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_file_is_where_the_history_begins(tmp_path: Path, version: int) -> None:
    picks = Picks(SAE, (Pick(feature=8, strength=-1.0), Pick(feature=3)))
    picks.save(tmp_path)
    if version == 1:
        values = picks.to_dict() | {"version": 1}
        (tmp_path / "picks.json").write_text(json.dumps(values))
    store = opened(tmp_path)
    assert store.picks() == picks
    store.change(3, starred=True)
    store.undo()
    assert store.picks() == picks
    with pytest.raises(CannotUndo):
        store.undo()


def test_a_damaged_file_is_not_taken_in(store: PickStore) -> None:
    store.change(1, label="one")
    path = store.run / "picks.json"
    path.write_text(path.read_text().replace("one", "two"))
    with pytest.raises(InputError, match="has changed since it was written"):
        store.change(2)
    path.unlink()
    store.undo()
    assert store.picks().picks == (Pick(feature=1, label="one"),), "the history has it"


def test_a_database_that_is_none(store: PickStore) -> None:
    (store.run / "picks.sqlite").write_bytes(b"not a database at all " * 100)
    with pytest.raises(
        InputError, match=r"picks\.sqlite is damaged .* the picks are in picks.json"
    ):
        store.change(1)
    assert not (store.run / "picks.json").exists()


def test_a_database_of_a_later_version(store: PickStore) -> None:
    store.change(1)
    store.close()
    with sqlite3.connect(store.run / "picks.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(InputError, match="written by a later sparsteer"):
        opened(store.run).change(2)
    assert [pick.feature for pick in store.picks().picks] == [1]


def test_if_the_commit_fails_the_file_is_as_before(
    store: PickStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.change(1, label="one")

    def fail(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparsteer.steering.features.pick_store.record_file", fail)
    with pytest.raises(OSError, match="No space left"):
        store.change(2)
    monkeypatch.undo()
    assert Picks.load(store.run, sae=SAE).picks == (Pick(feature=1, label="one"),)
    assert len(store.history()) == 1
    store.change(3)
    assert len(store.history()) == 2


def test_another_writer_is_waited_for_only_so_long(store: PickStore) -> None:
    store.change(1)
    other = sqlite3.connect(store.run / "picks.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(InputError, match="another process is writing"):
        opened(store.run, patience=0.05).change(2)
    other.execute("COMMIT")
    other.close()
    store.change(2)


def test_picks_of_another_autoencoder_are_refused(store: PickStore) -> None:
    store.change(1)
    with pytest.raises(InputError, match="another autoencoder"):
        PickStore(store.run, sae="d" * 64, n_latents=10)
    with pytest.raises(InputError, match="another autoencoder"):
        store.replace(Picks("d" * 64))
    with pytest.raises(InputError, match="no feature 5000"):
        store.replace(Picks(SAE, (Pick(feature=5000),)))
    (store.run / "picks.json").unlink()
    anew = PickStore(store.run, sae="d" * 64, n_latents=10)
    anew.change(2)
    with pytest.raises(CannotUndo):
        for _ in range(2):
            anew.undo()
    assert anew.picks().picks == ()


def test_replacing_all_is_one_step(store: PickStore) -> None:
    store.change([1, 2], label="old")
    before = store.picks()
    store.replace(Picks(SAE, (Pick(feature=2, label="new"), Pick(feature=9))), author="import")
    assert [pick.feature for pick in store.picks().picks] == [2, 9]
    store.undo()
    assert store.picks() == before


def test_threads_lose_nothing(store: PickStore) -> None:
    """As two tabs of one browser, which the server answers in threads."""

    def add(first: int) -> None:
        for feature in range(first, 24, 4):
            store.change(feature, author=f"tab {first}")

    threads = [threading.Thread(target=add, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(pick.feature for pick in store.picks().picks) == list(range(24))
    assert len(store.history(100)) == 24


def test_fields_of_one_feature_from_two_processes(store: PickStore) -> None:
    """Each gives another field of the same features, and both stay."""
    store.change(0)  # the children are forked with the connection open

    def give(name: str, value: object) -> None:
        for feature in range(8):
            store.change(feature, author=name, **{name: value})

    forked = multiprocessing.get_context("fork")
    processes = [
        forked.Process(target=give, args=given) for given in (("label", "l"), ("starred", True))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    found = {replace(pick, feature=0) for pick in store.picks().picks}
    assert found == {Pick(feature=0, label="l", starred=True)}


def test_searches_are_saved_run_again_and_deleted(store: PickStore) -> None:
    query = {"kind": "text", "text": "a\u202eb"}
    first = store.searches.save("mine", query)
    store.searches.save("another", {"kind": "near", "feature": 3})
    again = store.searches.save("mine", query | {"max_density": 0.1})
    assert first.number == again.number, "saved in the place of the first"
    assert [found.name for found in store.searches.all()] == ["another", "mine"]
    assert opened(store.run).searches.all()[1].query == query | {"max_density": 0.1}
    store.searches.delete(first.number)
    with pytest.raises(InputError, match="there is no saved search"):
        store.searches.delete(first.number)
    with pytest.raises(InputError, match="name is empty"):
        store.searches.save(" ", query)
    with pytest.raises(InputError, match="name has 201 characters"):
        store.searches.save("n" * 201, query)
    with pytest.raises(InputError, match="too large"):
        store.searches.save("big", {"text": "x" * 300_000})
    assert store.history() == [], "a search is no change of the picks"


ADDING = """
import sys
from sparsteer.steering.features.pick_store import PickStore
store = PickStore(sys.argv[1], sae="c" * 64, n_latents=5000)
for feature in range(int(sys.argv[2]), 1000):
    store.change(feature, starred=feature % 2 == 0)
    print(feature, flush=True)
"""


@pytest.mark.slow
def test_no_acknowledged_pick_is_lost_to_a_kill(tmp_path: Path) -> None:
    """kill -9 at random moments among 1,000 picks: what was said to be done is there."""
    generator = random.Random(1)
    done, kills = 0, 0
    while done < 1000:
        adding = subprocess.Popen(
            [sys.executable, "-c", ADDING, str(tmp_path), str(done)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert adding.stdout is not None
        until = done + generator.randint(1, 250)
        for line in adding.stdout:
            done = int(line) + 1
            if done >= until:
                # Anywhere within the next change.
                threading.Event().wait(generator.random() * 0.03)
                adding.send_signal(signal.SIGKILL)
                kills += 1
                break
        for line in adding.stdout:  # acknowledged before the kill came
            done = int(line) + 1
        adding.stdout.close()
        adding.wait()
        store = opened(tmp_path)
        found = {pick.feature: pick for pick in store.picks().picks}
        assert all(found[n] == Pick(feature=n, starred=n % 2 == 0) for n in range(done))
        assert len(found) <= done + 1, "at most the change that was under way is there, too"
        store.undo()
        store.change(max(found), starred=max(found) % 2 == 0)
        store.close()
    assert kills >= 3
    assert len(opened(tmp_path).picks().picks) == 1000
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"picks.json", "picks.sqlite"}
    shutil.rmtree(tmp_path)
