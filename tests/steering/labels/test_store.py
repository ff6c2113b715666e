"""The file of machine labels, and the interval of a score."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsteer.sae import InputError, SparseAutoencoder, TopKConfig
from sparsteer.steering.labels import Detection, LabelStore, MachineLabel, machine_labels
from sparsteer.steering.labels.machine_label import wilson
from sparsteer.steering.labels.store import FILE

SAE = "a" * 64


def detection_of(found: int = 3, refused: int = 4) -> Detection:
    return Detection(
        positives=4,
        found=found,
        near_misses=2,
        near_misses_refused=min(refused, 2),
        others=2,
        others_refused=max(0, refused - 2),
    )


def label_of(feature: int, label: str = "rain", detection: Detection | None = None) -> MachineLabel:
    return MachineLabel(
        feature=feature,
        label=label,
        model="m",
        endpoint="local",
        method="examples",
        detection=detection,
        made="2026-01-02T03:04:05+00:00",
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    SparseAutoencoder(TopKConfig(8, 20, 2)).save(tmp_path / "run" / "sae")
    return tmp_path / "run"


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(max_examples=15)
@given(labels=st.lists(st.tuples(st.integers(0, 9), texts, st.booleans()), max_size=6))
def test_the_last_label_of_a_feature_comes_back(
    tmp_path_factory: pytest.TempPathFactory, labels: list[tuple[int, str, bool]]
) -> None:
    run = tmp_path_factory.mktemp("run")
    SparseAutoencoder(TopKConfig(8, 20, 2)).save(run / "sae")
    given = [label_of(n, text, detection_of() if scored else None) for n, text, scored in labels]
    store = LabelStore(run, sae=SAE)
    with store.writing():
        for label in given:
            store.add(label)
    expected = {label.feature: label for label in given}
    assert machine_labels(run, sae=SAE) == expected == store.labels
    assert {path.name for path in run.iterdir()} <= {"sae", FILE}


def test_rejected_features_are_known_until_they_get_a_label(run: Path) -> None:
    store = LabelStore(run, sae=SAE)
    with store.writing():
        store.add(label_of(1))
        store.reject(1, "empty", model="m")
        store.reject(2, "a refusal", model="m")
        store.reject(3, "empty", model="m")
        store.add(label_of(3))
    for read in (store, LabelStore(run, sae=SAE)):
        assert set(read.labels) == {1, 3} and read.rejected == {2: "a refusal"}


@pytest.mark.parametrize("kept", [0, 1, 30, -1])
def test_a_line_that_was_not_finished_is_no_label(run: Path, kept: int) -> None:
    store = LabelStore(run, sae=SAE)
    with store.writing():
        store.add(label_of(1))
        whole = (run / FILE).read_bytes()
        store.add(label_of(2))
    second = (run / FILE).read_bytes()[len(whole) :]
    (run / FILE).write_bytes(whole + second[:kept])
    assert set(machine_labels(run, sae=SAE)) == {1}
    again = LabelStore(run, sae=SAE)
    with again.writing():
        again.add(label_of(3))
    assert set(machine_labels(run, sae=SAE)) == {1, 3}
    assert (run / FILE).read_bytes().startswith(whole)


def test_every_changed_byte_of_a_line_is_found(run: Path) -> None:
    store = LabelStore(run, sae=SAE)
    with store.writing():
        store.add(label_of(1, "rain", detection_of()))
        store.add(label_of(2))
    content = (run / FILE).read_bytes()
    first = content.index(b"\n")
    for at in range(0, first, 7):
        (run / FILE).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(InputError, match=r"line 1 of .*labels.jsonl"):
            machine_labels(run, sae=SAE)


def test_labels_of_another_autoencoder_are_refused(run: Path) -> None:
    store = LabelStore(run, sae=SAE)
    with store.writing():
        store.add(label_of(1))
    with pytest.raises(InputError, match="another autoencoder"):
        machine_labels(run, sae="b" * 64)


def test_a_run_without_labels_has_none(run: Path) -> None:
    assert machine_labels(run, sae=SAE) == {} and not (run / FILE).exists()


def test_a_label_shows_who_made_it_and_how_good_it_is() -> None:
    assert label_of(1).shown == "rain (by m, not scored)"
    assert label_of(1, "rain", detection_of(4, 4)).shown.startswith("rain (by m, detection 1.00 [")
    assert "no better than a guess" in label_of(1, "rain", detection_of(2, 2)).shown


@given(found=st.integers(0, 4), refused=st.integers(0, 4))
def test_the_interval_holds_the_score(found: int, refused: int) -> None:
    detection = detection_of(found, refused)
    low, high = detection.interval
    assert 0 <= low <= detection.balanced_accuracy <= high <= 1
    assert detection.balanced_accuracy == pytest.approx((found / 4 + refused / 4) / 2)


def test_a_score_needs_both_sides() -> None:
    for positives, others in ((0, 3), (3, 0)):
        with pytest.raises(InputError, match="needs texts"):
            Detection(
                positives=positives,
                found=0,
                near_misses=0,
                near_misses_refused=0,
                others=others,
                others_refused=0,
            )
    with pytest.raises(InputError, match="found is 5, more than positives"):
        detection_of(5)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    source = np.random.default_rng(0)
    for true, false in ((0.5, 0.5), (0.8, 0.7), (0.95, 0.9)):
        inside = 0
        for found, refused in zip(
            source.binomial(8, true, 500), source.binomial(8, false, 500), strict=True
        ):
            detection = Detection(
                positives=8,
                found=int(found),
                near_misses=0,
                near_misses_refused=0,
                others=8,
                others_refused=int(refused),
            )
            low, high = detection.interval
            inside += low <= (true + false) / 2 <= high
        assert inside / 500 > 0.9


def test_wilson_against_its_equation() -> None:
    for successes, trials in ((0, 5), (3, 8), (8, 8), (40, 100)):
        rate = successes / trials
        for end in wilson(rate, trials):
            if 0 < end < 1:
                deviation = abs(rate - end) / math.sqrt(end * (1 - end) / trials)
                assert deviation == pytest.approx(1.959964)
