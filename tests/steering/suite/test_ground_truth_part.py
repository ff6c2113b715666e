"""The part of the suite that trains each kind of autoencoder on rows of known features."""

import json
from pathlib import Path

import pytest

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.steering.suite.part import SuiteContext
from sparsteer.steering.suite.parts.ground_truth import GROUND_TRUTH
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.evaluation.config import EvalSettings
from sparsteer.training.evaluation.ground_truth.config import (
    SIZES,
    BenchmarkSize,
    FeatureSettings,
    GroundTruthSettings,
)
from sparsteer.training.evaluation.subjects import Subject
from sparsteer.training.train import train
from sparsteer.training.trainer_config import TrainerConfig

TINY = BenchmarkSize(
    features=FeatureSettings(n_features=48, d_model=24, n_roots=2, branching=2, depth=2),
    n_latents=12,
    l0=2,
    samples=64 * 60,
    lr=5e-3,
    rows=1000,
    batch_size=64,
)


@pytest.mark.slow
def test_each_kind_and_training_is_measured_once(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "small", TINY)
    subjects: list[Subject] = []
    for name, k, coefficient in (("a", 3, 1 / 32), ("b", 5, 1 / 32), ("c", 5, 0.0)):
        trainer = TrainerConfig(
            tokens=512, batch_size=64, lr=1e-3, auxk_coefficient=coefficient, dead_after_tokens=99
        )
        out = tmp_path / name
        train(
            TrainConfig(cache=str(planted_cache), out=str(out), k=k, n_latents=32, trainer=trainer)
        )
        sae = SparseAutoencoder.load(out)
        subjects.append(Subject(str(out), sae, "site", None))
    other = SparseAutoencoder(TopKConfig(5, 7, 2))
    subjects += [
        Subject("in no run", other, "site", None),
        Subject("raw", other, "site", None, "raw"),
    ]
    said: list[str] = []
    context = SuiteContext(
        subjects=tuple(subjects),
        seeds=(),
        cache=ActivationCache(planted_cache),
        settings=EvalSettings(cache=str(planted_cache), contexts=0, device="cpu"),
        options=GroundTruthSettings(seeds=2, device="cpu"),
        seed=0,
        model=lambda: pytest.fail("no language model is needed"),
        say=said.append,
    )
    a, b, c, in_no_run, raw = GROUND_TRUTH.measure(context)
    values = {figure.name: figure.value for figure in a.figures}
    assert values["l0"] == 2 and 0 < (values["mcc"] or 0) < 1 and 0 < (values["f1"] or 0) < 1
    assert all(figure.interval is not None for figure in a.figures)
    # Their k is the benchmark's, so that two are of one kind, and one that says nothing of
    # its training is taken as trained by default; the third's loss differs.
    assert b is a and in_no_run is a and c is not a and not raw.figures
    assert len([sentence for sentence in said if "training the kind of" in sentence]) == 2
    json.dumps(dict(a.details), allow_nan=False)
