"""The benchmark as a whole: training finds features, seeds reproduce, results go on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae import InputError, JumpReLUConfig, TopKConfig
from sparsteer.sae.config import BatchTopKConfig, ReLUConfig, TopAFAConfig
from sparsteer.training import TrainerConfig
from sparsteer.training.evaluation.ground_truth.benchmark import ground_truth
from sparsteer.training.evaluation.ground_truth.config import (
    SIZES,
    BenchmarkSize,
    FeatureSettings,
    GroundTruthSettings,
)
from sparsteer.training.evaluation.ground_truth.published import PUBLISHED, published_beside
from sparsteer.training.evaluation.ground_truth.recipes import (
    autoencoder_at,
    plain_autoencoder,
    training_at,
)

TINY = BenchmarkSize(
    features=FeatureSettings(
        n_features=48,
        d_model=24,
        max_rate=0.3,
        min_rate=0.01,
        n_roots=2,
        branching=2,
        depth=2,
        correlation_rank=3,
    ),
    n_latents=12,
    l0=2,
    samples=64 * 400,
    lr=5e-3,
    rows=3000,
    batch_size=64,
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size of a second."""
    monkeypatch.setitem(SIZES, "small", TINY)


def trained(activation: str = "topk", **changes: Any) -> dict[str, Any]:
    changed: dict[str, Any] = {"seeds": 1, **changes}
    settings = GroundTruthSettings(**changed)
    return ground_truth(plain_autoencoder(activation, (), settings), settings=settings)


@pytest.mark.slow
def test_training_finds_features() -> None:
    before, after = trained(samples=64), trained()
    measures = {name: one["mean"] for name, one in after["measures"].items()}
    assert measures["mcc"] > before["measures"]["mcc"]["mean"] + 0.15
    assert measures["mcc"] > after["chance_mcc"] + 0.15
    assert measures["f1"] > before["measures"]["f1"]["mean"] + 0.1
    assert measures["explained_variance"] > 0.4
    assert measures["l0"] == pytest.approx(2, abs=0.1)
    assert json.loads(json.dumps(after, allow_nan=False)) == json.loads(json.dumps(after))
    assert after["published"] is None


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["batch_topk", "jumprelu", "top_afa"])
def test_every_activation_is_led_to_the_benchmarks_l0(activation: str) -> None:
    found = trained(activation)
    assert found["measures"]["l0"]["mean"] == pytest.approx(2, rel=0.3)
    assert found["sae"]["activation"] == activation


@pytest.mark.slow
def test_seeds_reproduce_and_results_go_on(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    settings = GroundTruthSettings(seeds=1, samples=640)
    sae = plain_autoencoder("topk", (), settings)
    one = ground_truth(sae, settings=settings, out=out)
    assert json.loads(out.read_text()) == json.loads(json.dumps(one))
    more = dataclasses.replace(settings, seeds=3)
    said: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        said.append((done, total))

    three = ground_truth(sae, settings=more, out=out, progress=progress)
    assert three["seeds"][0] == one["seeds"][0]
    assert [seed["seed"] for seed in three["seeds"]] == [0, 1, 2]
    assert len({seed["mcc"] for seed in three["seeds"]}) == 3
    assert said[0][0] > 3640 and said[-1] == (3 * 3640, 3 * 3640)
    assert three["seeds"] == ground_truth(sae, settings=more)["seeds"]
    assert ground_truth(sae, settings=settings, out=out)["seeds"] == one["seeds"]
    low, mean, high = (three["measures"]["f1"][name] for name in ("low", "mean", "high"))
    assert low < mean < high and one["measures"]["f1"]["low"] is None


def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    settings = GroundTruthSettings(seeds=1, samples=128, rows=50)
    ground_truth(plain_autoencoder("topk", (), settings), settings=settings, out=out)
    before = out.read_bytes()
    other = plain_autoencoder("batch_topk", (), settings)
    with pytest.raises(InputError, match="has results of another sae"):
        ground_truth(other, settings=settings, out=out)
    longer = dataclasses.replace(settings, samples=192)
    with pytest.raises(InputError, match="has results of another trainer"):
        ground_truth(plain_autoencoder("topk", (), longer), settings=longer, out=out)
    assert out.read_bytes() == before
    out.write_text("[]")
    with pytest.raises(InputError, match=r"file of results .* JSON list"):
        ground_truth(other, settings=settings, out=out)


def test_of_a_users_autoencoder_the_kind_is_kept() -> None:
    settings = GroundTruthSettings()
    transcoder = TopKConfig(576, 4608, k=64, prefixes=(288, 1152), transcoder=True, skip=True)
    assert autoencoder_at(transcoder, settings) == TopKConfig(24, 12, k=2, prefixes=(1, 3))
    assert autoencoder_at(BatchTopKConfig(9, 99, k=30), settings) == BatchTopKConfig(24, 12, k=2)
    jump = JumpReLUConfig(9, 99, bandwidth=0.7, fixed_thresholds=True)
    assert autoencoder_at(jump, settings) == JumpReLUConfig(24, 12, bandwidth=0.7)
    afa = TopAFAConfig(9, 99, target_scale=0.3)
    assert autoencoder_at(afa, settings) == TopAFAConfig(
        24, 12, target_scale=0.3, learned_scale=True
    )
    with pytest.raises(InputError, match="activation is relu, which is not trained here"):
        autoencoder_at(ReLUConfig(9, 99), settings)


def test_of_the_training_the_losses_are_kept() -> None:
    settings = GroundTruthSettings(lr=1e-3)
    recipe = TrainerConfig(
        tokens=10**7,
        lr=5e-5,
        multi_topk_coefficient=1 / 8,
        auxk_coefficient=0.5,
        k_start=200,
        k_aux=300,
        dead_after_tokens=5,
        ema_decay=0.99,
    )
    sae = plain_autoencoder("topk", (), settings)
    found = training_at(sae, recipe, settings, seed=4)
    kept = (found.multi_topk_coefficient, found.auxk_coefficient, found.ema_decay)
    assert kept == (1 / 8, 0.5, 0.99)
    assert (found.tokens, found.batch_size, found.lr) == (64 * 400, 64, 1e-3)
    assert (found.seed, found.data_seed, found.k_start, found.k_aux) == (4, 4, None, None)
    assert found.dead_after_tokens is None and found.target_l0 is None
    jump = plain_autoencoder("jumprelu", (), settings)
    plain = TrainerConfig(sparsity="tanh")
    assert training_at(jump, plain, settings, seed=0).target_l0 == 2
    with pytest.raises(InputError, match=r"multi_topk_coefficient is 0\.125, but only topk"):
        training_at(jump, recipe, settings, seed=0)


def test_prefixes_are_fractions_or_numbers() -> None:
    settings = GroundTruthSettings(size="16k")
    sae = plain_autoencoder("batch_topk", (0.03125, 0.125, 2048.0), settings)
    assert sae == BatchTopKConfig(768, 4096, k=25, prefixes=(128, 512, 2048))


def test_published_rows_stand_beside_the_published_size() -> None:
    settings = GroundTruthSettings(size="16k", samples=10**6)
    matryoshka = plain_autoencoder("batch_topk", (128.0, 512.0, 2048.0), settings)
    found = published_beside(matryoshka, settings)
    assert found is not None
    assert found["same_kind"] == "Matryoshka" and len(found["rows"]) == 5
    assert {row["l0"] for row in found["rows"]} == {25}
    (row,) = (row for row in found["rows"] if row["architecture"] == "Matryoshka")
    assert (row["f1"], row["mcc"]) == ((0.8793, 0.0021), (0.7927, 0.0006))
    assert not found["settings_are_equal"]
    assert any("1,000,000 rows, where 200,000,000" in text for text in found["differences"])
    as_published = GroundTruthSettings(size="16k", l0=20)
    beside = published_beside(plain_autoencoder("topk", (), as_published), as_published)
    assert beside is not None and beside["same_kind"] is None
    assert not any("rows, where" in text or "L0" in text for text in beside["differences"])
    assert not beside["settings_are_equal"]
    same = published_beside(plain_autoencoder("jumprelu", (), as_published), as_published)
    assert same is not None and same["settings_are_equal"]
    other = GroundTruthSettings(size="16k", l0=40)
    far = published_beside(plain_autoencoder("jumprelu", (), other), other)
    assert far is not None and far["same_kind"] == "JumpReLU"
    assert len(far["rows"]) == len(PUBLISHED)
    assert "L0 40, where 20 and 25 are published" in far["differences"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"l0": 13}, "l0 is 13, but at the size small there are only 12 latents"),
        ({"samples": 63}, "samples is 63, less than one batch of 64"),
        ({"seeds": 0}, "seeds is 0"),
        ({"rows": 1}, "rows is 1, but one row has no variance"),
        ({"lr": 2.0}, "lr is 2"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GroundTruthSettings(**wrong)
