"""The verbs features label and features export, on a run of the tiny model."""

import json
import shutil
from pathlib import Path

import pytest

from sparsteer.steering.features import FeatureIndex
from sparsteer.steering.features.listing import ranked

from ..steering.labels.chat_stand_in import Fault, chat_stand_in
from .conftest import Sparsteer


@pytest.fixture(scope="module")
def indexed(run_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sparsteer.cli.main import main

    run = tmp_path_factory.mktemp("labeled") / "run"
    shutil.copytree(run_folder / "sae", run / "sae")
    words = ["features", "build", str(run), "--cache", str(cache), "--logits", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        assert main([*words, "--examples", "8"]) == 0
    return run


@pytest.fixture
def run(indexed: Path, tmp_path: Path) -> Path:
    shutil.copytree(indexed, tmp_path / "run")
    return tmp_path / "run"


def test_labels_are_seen_where_features_are(
    sparsteer: Sparsteer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_KEY", "secret-key")
    first, second = ranked(FeatureIndex(run), "interest")[:2]
    with chat_stand_in() as chat:
        chat.key = "secret-key"
        words = ("features", "label", run, "--endpoint", chat.url, "--api-key-env", "LABEL_KEY")
        dry = sparsteer(*words, "--top", 2, "--dry-run")
        assert dry.status == 0 and "nothing was asked; 2 features would take 4 requests" in dry.out
        assert "<<" in dry.out and not chat.requests
        done = sparsteer(*words, "--top", 2, "--json")
        assert done.status == 0 and len(done.values["labels"]) == 2
        assert "2 features take 4 requests" in done.err
        assert "secret-key" not in done.out + done.err
        again = sparsteer(*words, "--top", 2)
        assert "left alone: 2 features asked about before" in again.out and len(chat.requests) == 4
        sparsteer("pick", run, "add", first, "--label", "my own words")
        chat.labels = lambda question: "other words"
        anew = sparsteer(*words, "--feature", first, second, "--again")
        assert "other words" in anew.out and "1 feature that a person labeled" in anew.out
    listed = sparsteer("features", "list", run, "--top", 2)
    assert "my own words" in listed.out and "(machine, 0.50) other words" in listed.out
    features = sparsteer("features", "list", run, "--top", 2, "--json").values["features"]
    assert [each["machine_label"]["label"] for each in features] == [
        "words of one letter",
        "other words",
    ]
    shown = sparsteer("features", "show", run, second)
    assert "machine label: other words (by stand-in-1, detection 0.50" in shown.out
    values = sparsteer("features", "show", run, second, "--json").values
    assert values["machine_label"]["detection"]["balanced_accuracy"] == 0.5


@pytest.mark.slow
def test_a_server_that_refuses_or_fails_is_one_sentence(
    sparsteer: Sparsteer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsteer.steering.labels.chat_client._FIRST_WAIT", 0.0)
    with chat_stand_in() as chat:
        words = ("features", "label", run, "--endpoint", chat.url, "--top", 1)
        chat.key = "right"
        refused = sparsteer(*words)
        assert refused.status == 2 and "refuses the key" in refused.error
        chat.key, chat.faults = None, dict.fromkeys(range(100), Fault(503))
        failed = sparsteer(*words)
        assert failed.status == 1 and "fails (status 503" in failed.error
    assert sparsteer("features", "label", run, "--endpoint", "here").status == 2


def test_export_writes_a_page(sparsteer: Sparsteer, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page"
    done = sparsteer("features", "export", run, "--static", out, "--feature", 3, 4)
    assert done.status == 0 and f"open {out}/index.html in a browser" in done.out
    assert (out / "index.html").read_text().startswith("<!doctype html>")
    refused = sparsteer("features", "export", run, "--static", out, "--feature", 5)
    assert refused.status == 2 and refused.error.startswith("--static is ")
    assert "give --force to replace it" in refused.error
    forced = sparsteer(
        "features", "export", run, "--static", out, "--feature", 5, "--force", "--json"
    )
    assert forced.values["features"] == [5] and forced.values["opens"] == f"{out}/index.html"


def test_export_writes_other_layouts(sparsteer: Sparsteer, run: Path, tmp_path: Path) -> None:
    for layout, file in (
        ("neuronpedia", "mine/1-res-48/features/batch-0.jsonl.gz"),
        ("saedashboard", "batch-0.json"),
    ):
        words = ("--format", layout, "--feature", 3, "--model-id", "mine")
        done = sparsteer("features", "export", run, "--static", tmp_path / layout, *words)
        assert done.status == 0 and (tmp_path / layout / file).is_file()
    batch = json.loads((tmp_path / "saedashboard" / "batch-0.json").read_text())
    assert batch["features"][0]["feature_index"] == 3
