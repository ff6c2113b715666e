"""`sparsteer verify`: whole, damaged and unchecked files of every kind of folder."""

import json
import random
import re
import shutil
from pathlib import Path

import pytest

from sparsteer.cli.verify import damage

from .conftest import SITES, TRAIN_WORDS, Sparsteer


@pytest.fixture
def folder(sparsteer: Sparsteer, cache: Path, run_folder: Path, tmp_path: Path) -> Path:
    """A cache, a run with picks, and an exported autoencoder."""
    everything = tmp_path / "all"
    shutil.copytree(cache, everything / "cache")
    shutil.copytree(run_folder, everything / "run")
    assert sparsteer("pick", everything / "run", "add", 3, "--strength", 2.5).status == 0
    words = ("export", everything / "run", "--out", everything / "exported")
    assert sparsteer(*words).status == 0
    return everything


def is_passed_over(path: Path) -> bool:
    """Whether it is a lock, or the history of the picks, which have no checksum."""
    return path.name.startswith(".lock") or path.name == "picks.sqlite"


def test_what_is_whole(sparsteer: Sparsteer, folder: Path) -> None:
    (folder / "run" / "report.html").write_text("<p>")
    done = sparsteer("verify", folder)
    assert done.status == 0
    assert f"{folder} is whole" in done.out and "report.html" in done.out
    values = sparsteer("verify", folder, "--json").values
    states = {file["file"]: file["state"] for file in values["files"]}
    assert values["whole"] and values["problems"] == []
    unchecked = [str(folder / "run" / "report.html")]
    assert values["unchecked"] == unchecked
    assert {name for name, state in states.items() if state != "whole"} == set(unchecked)
    written = {str(path) for path in folder.rglob("*") if path.is_file()}
    assert set(states) == {name for name in written if not is_passed_over(Path(name))}


def test_every_changed_byte_is_found(sparsteer: Sparsteer, folder: Path) -> None:
    source = random.Random(7)
    paths = [
        path for path in sorted(folder.rglob("*")) if path.is_file() and not is_passed_over(path)
    ]
    assert len(paths) > 15
    for path in paths:
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[source.randrange(len(whole))] ^= 1 << source.randrange(8)
        path.write_bytes(changed)
        done = sparsteer("verify", path.parent)
        assert done.status == 1, path
        assert done.err.splitlines()[-1].startswith("error: ")
        path.write_bytes(whole)
    assert sparsteer("verify", folder).status == 0


def test_a_missing_file_and_a_single_file(sparsteer: Sparsteer, folder: Path) -> None:
    weights = folder / "run" / "sae" / "sae.safetensors"
    assert sparsteer("verify", weights).status == 0
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert sparsteer("verify", weights).status == 1
    assert sparsteer("verify", weights.parent / "config.json").status == 0
    weights.unlink()
    done = sparsteer("verify", folder / "run", "--json")
    assert done.status == 1
    assert done.values["problems"] == [f"{weights} is missing; restore it, or make it again"]
    assert "1 of " in done.err


def test_an_interrupted_run_and_what_an_earlier_version_wrote(
    sparsteer: Sparsteer, folder: Path
) -> None:
    metrics = folder / "run" / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-9])  # as a kill leaves it
    picks = folder / "run" / "picks.json"
    values = json.loads(picks.read_text())
    del values["sha256"]
    picks.write_text(json.dumps(values | {"version": 1}))
    done = sparsteer("verify", folder, "--json")
    assert done.status == 0
    assert done.values["unchecked"] == [str(picks)]


def test_scores_and_rows(sparsteer: Sparsteer, run_folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"  # JSON Lines, by the name that the hub gives them
    rows.write_text('{"text": "ab cd", "version": 2}\n{"text": "ef"}\n')
    array = tmp_path / "array.json"
    array.write_text('[{"text": "ab cd"}]')
    scored = tmp_path / "scored.json"
    words = ("score", rows, "--target", array, "--run", run_folder, "--out", scored)
    assert sparsteer(*words).status == 0
    done = sparsteer("verify", tmp_path, "--json")
    assert done.status == 0
    assert done.values["unchecked"] == [str(array), str(rows)]
    scored.write_text(scored.read_text().replace("ab", "ba"))
    assert sparsteer("verify", scored).status == 1
    record = Path(f"{scored}.scoring")
    record.write_text(record.read_text().replace('"scored": 2', '"scored": 1'))
    done = sparsteer("verify", record)
    assert done.status == 1 and f"{record} has changed since it was written" in done.err
    assert "1 file " in done.out


def test_what_cannot_be_verified(sparsteer: Sparsteer, tmp_path: Path) -> None:
    done = sparsteer("verify", tmp_path / "nowhere")
    assert done.status == 2 and "nowhere does not exist" in done.error
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    done = sparsteer("verify", tmp_path)
    assert done.status == 2 and "holds nothing with a checksum" in done.error


FOREIGN = {
    "version": '{"version": 2, "packages": {"a": {"sha256": "00"}}}',
    "other digest": '{"name": "a.tar", "sha256": "00"}',
    "broken": '{"version": 2,',
    "version and digest": '{"name": "x", "version": "1.0", "sha256": "d3"}',
    "yaml": "version: 2\nservices: {}\n",
    "broken yaml": "version: [2\n",
    "version and digest in yaml": "version: 2\nsha256: abc\n",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_sparsteer_did_not_write(
    sparsteer: Sparsteer, folder: Path, tmp_path: Path, kind: str
) -> None:
    names = (
        ["config.yaml"]
        if "yaml" in kind
        else ["manifest.json", "config.json", "lock.json", "environment.json", "picks.json"]
    )
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for name in names:
        (foreign / name).write_text(FOREIGN[kind])
    done = sparsteer("verify", foreign)
    assert done.status == 2 and "holds nothing with a checksum" in done.error
    shutil.move(foreign, folder / "foreign")
    done = sparsteer("verify", folder, "--json")
    assert done.status == 0
    assert done.values["unchecked"] == [str(folder / "foreign" / name) for name in sorted(names)]


def test_a_checksum_that_was_cut_out_is_found(sparsteer: Sparsteer, folder: Path) -> None:
    cut = 0
    for path in [*folder.rglob("*.json"), *folder.rglob("config.yaml")]:
        whole = path.read_text()
        if path.name == "cfg.json":
            continue
        without = re.sub(r',?\n *"?sha256"?: "?[0-9a-f]{64}"?(?=\n\}?\n*$)', "", whole)
        assert without != whole
        path.write_text(without)
        done = sparsteer("verify", path)
        assert done.status == 1 and "has changed since it was written" in done.err, path
        for ruined in (whole[: len(whole) // 2], whole[:10], "", "\0" * len(whole)):
            path.write_text(ruined)
            assert sparsteer("verify", path).status == 1, (path, ruined[:10])
            assert sparsteer("verify", folder).status == 1, (path, ruined[:10])
        path.write_text(whole)
        cut += 1
    assert cut == 5


def test_a_damaged_autoencoder_is_one_sentence_for_every_verb(
    sparsteer: Sparsteer, folder: Path, tmp_path: Path
) -> None:
    run = folder / "run"
    weights = run / "sae" / "sae.safetensors"
    content = bytearray(weights.read_bytes())
    content[-77] ^= 2
    weights.write_bytes(content)
    for words in (
        ("eval", run, "--cache", folder / "cache"),
        ("export", run, "--out", tmp_path / "again"),
        ("generate", run, "--prompt", "a", "--feature", "3"),
        ("pick", run, "list"),
        ("features", "build", run, "--cache", folder / "cache"),
    ):
        done = sparsteer(*words)
        assert done.status == 2, words
        assert "sae.safetensors has changed since it was written" in done.error
    assert not (tmp_path / "again").exists()
    # What is complete is not trained again; its weights are not read.
    words = ("--cache", folder / "cache", "--out", run, "--site", SITES[1], *TRAIN_WORDS)
    assert sparsteer("train", *words).status == 0


def test_a_lock_has_no_checksum(sparsteer: Sparsteer, tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    lock.touch()
    done = sparsteer("verify", lock)
    assert done.status == 2
    assert "nothing with a checksum" in done.error


def test_the_sentence_about_damage_counts_in_words() -> None:
    assert damage("x", ["x/a is missing; restore it"], 1).startswith("1 of 1 file of x is missing ")
    assert damage("x", ["a; b", "c; d"], 5).startswith("2 of 5 files of x are missing ")
