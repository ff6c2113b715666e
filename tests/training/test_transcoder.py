"""Transcoders: losses against a target, what they learn, whole runs, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.app.report.files import write_plots
from sparsteer.kernels import reference
from sparsteer.sae import (
    BatchTopKConfig,
    InputError,
    JumpReLUConfig,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.config import SAEConfig
from sparsteer.sae.metrics import ReconstructionMetrics, measure_rows
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.data.stream.config import StreamConfig
from sparsteer.training.evaluation.config import EvalConfig
from sparsteer.training.evaluation.evaluation import evaluate
from sparsteer.training.grid import grid_configs, parse_grid
from sparsteer.training.initialize import (
    geometric_median,
    initialize_from_rows,
)
from sparsteer.training.non_finite import NonFiniteLoss
from sparsteer.training.train import train, train_grid
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from .conftest import SITE, TARGET_SITE
from .training_cases import TRAINER

D, F, K, B = 13, 57, 5, 31
CONFIGS: dict[str, tuple[SAEConfig, dict[str, Any]]] = {
    "topk": (TopKConfig(D, F, K, transcoder=True), {}),
    "batch_topk": (BatchTopKConfig(D, F, K, transcoder=True), {}),
    "multi_topk": (TopKConfig(D, F, K, transcoder=True), {"multi_topk_coefficient": 0.3}),
    "jumprelu": (JumpReLUConfig(D, F, transcoder=True), {"sparsity_coefficient": 0.0}),
    "nested topk": (TopKConfig(D, F, K, prefixes=(9, 30), transcoder=True), {}),
    "nested jumprelu": (
        JumpReLUConfig(D, F, prefixes=(30,), transcoder=True),
        {"sparsity_coefficient": 0.0},
    ),
}


@pytest.fixture(params=CONFIGS)
def case(request: pytest.FixtureRequest) -> tuple[SAEConfig, dict[str, Any]]:
    return CONFIGS[request.param]


def pairs(n_rows: int, d_model: int = D, n_features: int = 40) -> list[Tensor]:
    """Rows of sparse features, far from the origin, and rows of the same with other directions."""
    generator = torch.Generator().manual_seed(3)
    both = [torch.randn(n_features, d_model, generator=generator) for _ in range(2)]
    chosen = torch.rand(n_rows, n_features) < 0.1
    return [
        scale * chosen.float() @ directions + 9
        for scale, directions in zip((2, 0.3), both, strict=True)
    ]


def transcoder(config: SAEConfig, sample: list[Tensor], *, noise: float = 0.0) -> SparseAutoencoder:
    """One at the start of training, its weights moved by noise."""
    sae = SparseAutoencoder(config, seed=3)
    initialize_from_rows(sae, *sample)
    sae.activation.initialize(sae, sample[0], {"target_l0": K})
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec"):
            weights = sae.get_parameter(name)
            weights.add_(noise * torch.randn_like(weights))
    return sae


def test_scales_and_centers_are_of_each_side() -> None:
    x, y = pairs(500)
    sae = transcoder(TopKConfig(D, F, K, transcoder=True), [x, y])
    for rows, scale, center in (
        (x, sae.input_scale, sae.input_center),
        (y, sae.output_scale, sae.output_center),
    ):
        centered = rows * scale - center
        assert float(centered.square().sum(-1).mean()) == pytest.approx(D, rel=1e-4)
        median = geometric_median(rows.double()).float()
        torch.testing.assert_close(center / scale, median, rtol=1e-4, atol=1e-4)
    assert not {"input_center", "output_center"} & dict(sae.named_parameters()).keys()


def test_at_the_start_it_is_better_than_the_mean(case: tuple[SAEConfig, dict[str, Any]]) -> None:
    x, y = pairs(3000)
    sae = transcoder(case[0], [x[:2000], y[:2000]])
    assert measure_rows(sae, x[2000:], y[2000:]).fvu < 1
    torch.testing.assert_close(sae.W_dec.detach().square().sum(-1), torch.ones(F))


def test_the_start_does_not_depend_on_the_threads() -> None:
    x, y = pairs(4001)
    starts: list[dict[str, Tensor]] = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            starts.append(transcoder(TopKConfig(D, F, K, transcoder=True), [x, y]).state_dict())
    finally:
        torch.set_num_threads(1)
    for name, tensor in starts[0].items():
        assert torch.equal(tensor, starts[1][name]), name


def test_it_predicts_by_its_formula() -> None:
    x, y = pairs(50)
    sae = transcoder(TopKConfig(D, F, F, transcoder=True), [x, y], noise=0.1)
    acts = ((x * sae.input_scale - sae.input_center) @ sae.W_enc.T + sae.b_enc).relu()
    expected = (acts @ sae.W_dec + sae.b_dec + sae.output_center) / sae.output_scale
    torch.testing.assert_close(sae(x), expected, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_finite_differences(case: tuple[SAEConfig, dict[str, Any]]) -> None:
    config, settings = case
    x, y = (rows.double() for rows in pairs(B))
    sae = transcoder(config, [x, y], noise=0.1).double()
    trainer = Trainer(sae, TrainerConfig(auxk_coefficient=0.0, **settings))
    # jumprelu's thresholds get no exact gradient: it goes straight through the jump.
    names = ["W_enc", "b_enc", "W_dec", "b_dec"]

    def loss(*weights: Tensor) -> Tensor:
        given = {f"sae.{name}": tensor for name, tensor in zip(names, weights, strict=True)}
        return torch.func.functional_call(_Loss(trainer), given, (x, y))

    weights = [sae.get_parameter(name).detach().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(loss, weights, eps=1e-7, atol=1e-6, fast_mode=True)


class _Loss(torch.nn.Module):
    """`functional_call` exchanges parameters for the time of a module's forward alone."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.trainer = trainer
        self.sae = trainer.sae

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        sae = self.trainer.sae
        return self.trainer.loss(sae.scaled(x), None, sae.scaled_target(y)).total


def test_the_loss_is_its_formula_and_auxk_predicts_what_is_left() -> None:
    x, y = (rows.double() for rows in pairs(B))
    sae = transcoder(TopKConfig(D, F, K, transcoder=True), [x, y], noise=0.1).double()
    scaled, target = sae.scaled(x), sae.scaled_target(y)
    dead = torch.tensor([1, 4, 5, 20, 56])
    trainer = Trainer(sae, TrainerConfig(k_aux=3))
    losses = trainer.loss(scaled, dead, target)

    pre = scaled @ sae.W_enc.T + sae.b_enc
    kept = reference.topk_select(pre.detach(), K).dense(F) > 0
    x_hat = (pre.relu() * kept) @ sae.W_dec + sae.b_dec
    mse = (x_hat - target).square().mean()
    left = (target - x_hat).detach()
    aux = reference.topk_select(pre.detach()[:, dead], 3).dense(len(dead)) > 0
    dead_hat = (pre[:, dead].relu() * aux) @ sae.W_dec[dead]
    auxk = (dead_hat - left).square().mean() / (left - left.mean(0)).square().mean()
    torch.testing.assert_close(losses.mse, mse)
    torch.testing.assert_close(losses.terms["auxk"], auxk)
    weights = list(sae.parameters())
    wanted = torch.autograd.grad(mse + auxk / 32, weights)
    for got, want in zip(torch.autograd.grad(losses.total, weights), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_bfloat16_is_near_float32(case: tuple[SAEConfig, dict[str, Any]]) -> None:
    config, settings = case
    x, y = pairs(256)
    sae = transcoder(config, [x, y], noise=0.02)
    found: dict[str, list[Tensor]] = {}
    for precision in ("float32", "bfloat16"):
        chosen: Any = {"precision": precision, "auxk_coefficient": 0.0, **settings}
        losses = Trainer(sae, TrainerConfig(**chosen)).loss(
            sae.scaled(x), None, sae.scaled_target(y)
        )
        weights = [sae.W_dec, sae.W_enc, sae.b_enc, sae.b_dec]
        found[precision] = [losses.mse.detach(), *torch.autograd.grad(losses.total, weights)]
    assert all(tensor.dtype == torch.float32 for tensor in found["bfloat16"])
    for low, full in zip(found["bfloat16"], found["float32"], strict=True):
        # Rounding lets a few other latents be chosen.
        assert float((low - full).square().sum() / full.square().sum()) < 0.25**2
    assert float(found["bfloat16"][0]) == pytest.approx(float(found["float32"][0]), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["topk", "batch_topk", "jumprelu"])
def test_it_learns_a_map_that_no_linear_one_is(activation: str) -> None:
    d_model, n_features, n_rows = 32, 64, 256
    config: dict[str, SAEConfig] = {
        "topk": TopKConfig(d_model, 128, 8, transcoder=True),
        "batch_topk": BatchTopKConfig(d_model, 128, 8, transcoder=True),
        "jumprelu": JumpReLUConfig(d_model, 128, transcoder=True),
    }
    x, y = pairs(n_rows * 200, d_model, n_features)
    sae = SparseAutoencoder(config[activation])
    initialize_from_rows(sae, x[:4000], y[:4000])
    sae.activation.initialize(sae, x[:4000], {"target_l0": 8})
    settings: Any = {"tokens": len(x), "batch_size": n_rows, "lr": 2e-2}
    settings |= {"target_l0": 8} if activation == "jumprelu" else {}
    trainer = Trainer(sae, TrainerConfig(dead_after_tokens=8000, **settings))
    fvu = torch.stack(
        [
            trainer.step(*batches).fvu
            for batches in zip(torch.split(x, n_rows), torch.split(y, n_rows), strict=True)
        ]
    )
    held_x, held_y = pairs(4000, d_model, n_features)
    variance = (held_y - held_y.mean(0)).square().sum()
    linear = float((_linear_of(x, y, held_x) - held_y).square().sum() / variance)
    measured = measure_rows(sae, held_x, held_y)
    by_hand = float((sae(held_x).detach() - held_y).square().sum() / variance)
    assert measured.fvu == pytest.approx(by_hand, rel=1e-3)
    assert measured.fvu < 0.75 * linear
    assert float(fvu[-5:].mean()) == pytest.approx(measured.fvu, rel=0.15)


def _linear_of(x: Tensor, y: Tensor, held_x: Tensor) -> Tensor:
    """What the best affine map from x to y makes of other rows."""
    x_mean, y_mean = x.double().mean(0), y.double().mean(0)
    centered = x.double() - x_mean
    fitted = torch.inverse(centered.T @ centered) @ centered.T @ (y.double() - y_mean)
    return (held_x - x_mean) @ fitted + y_mean


def test_a_target_belongs_to_transcoders_alone() -> None:
    x, y = pairs(B)
    plain = SparseAutoencoder(TopKConfig(D, F, K))
    sae = transcoder(TopKConfig(D, F, K, transcoder=True), [x, y])
    without = "the transcoder needs a target"
    for act in (
        lambda: Trainer(sae).step(x),
        lambda: Trainer(sae).loss(x),
        lambda: initialize_from_rows(sae, x),
        lambda: ReconstructionMetrics(sae).update(x),
    ):
        with pytest.raises(ValueError, match=without):
            act()
    for act in (
        lambda: Trainer(plain).step(x, y),
        lambda: Trainer(plain).loss(x, None, y),
        lambda: initialize_from_rows(plain, x, y),
        lambda: ReconstructionMetrics(plain).update(x, y),
    ):
        with pytest.raises(ValueError, match="the autoencoder needs no target"):
            act()


@pytest.mark.usefixtures("without_type_checks")
def test_a_target_of_another_shape_is_refused() -> None:
    x, y = pairs(B)
    sae = transcoder(TopKConfig(D, F, K, transcoder=True), [x, y])
    with pytest.raises(ValueError, match=r"target has shape \[30, 13\], but must .* \[31, 13\]"):
        Trainer(sae).step(x, y[1:])


@pytest.mark.parametrize("bad", ["target", "batch"])
def test_a_row_that_is_not_finite_is_named_with_its_side(bad: str) -> None:
    x, y = pairs(B)
    sae = transcoder(TopKConfig(D, F, K, transcoder=True), [x, y])
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    (y if bad == "target" else x)[17, 3] = torch.nan
    with pytest.raises(NonFiniteLoss, match=rf"row 17 of its {bad} is not finite \(1 such row\)"):
        Trainer(sae).step(x, y)
    assert all(torch.equal(tensor, before[name]) for name, tensor in sae.state_dict().items())


def config_of(cache: Path, out: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "site": SITE,
        "target_site": TARGET_SITE,
        "n_latents": 70,
        "k": 4,
        "trainer": TRAINER,
    }
    return TrainConfig(cache=str(cache), out=str(out), **(settings | changes))


@pytest.fixture(scope="module")
def run(paired_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; none may change it."""
    folder = tmp_path_factory.mktemp("runs") / "transcoder"
    train(config_of(paired_cache, folder))
    return folder


def test_a_run_measures_against_its_target(run: Path, paired_cache: Path) -> None:
    sae = SparseAutoencoder.load(run)
    assert sae.origin is not None
    assert (sae.origin.site, sae.origin.target_site) == (SITE, TARGET_SITE)
    cache = ActivationCache(paired_cache)
    held_out = [cache.held_out(site=site, limit=200) for site in (SITE, TARGET_SITE)]
    summary = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["summary"]
    assert summary["held_out"] == measure_rows(sae, *held_out).result()
    assert summary["target_site"] == TARGET_SITE
    assert summary["held_out"]["fvu"] < 0.8
    assert measure_rows(sae, *reversed(held_out)).fvu > 1


def test_a_resumed_run_ends_with_the_same_bits(
    run: Path, paired_cache: Path, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def report(done: int, total: int, figures: dict[str, float]) -> None:
        if done >= 20:
            raise Killed

    config = config_of(paired_cache, tmp_path / "again")
    with pytest.raises(Killed):
        train(config, report=report)
    said: list[str] = []
    train(config, say=said.append)
    assert said == [f"{tmp_path / 'again'} goes on from step 16"]
    assert bits(tmp_path / "again") == bits(run)
    with pytest.raises(InputError, match=r"with target_site='blocks\.1\.hook_mlp_out', not None"):
        train(dataclasses.replace(config, target_site=None))


def bits(run: str | Path) -> dict[str, bytes]:
    state = SparseAutoencoder.load(run).state_dict()
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


@pytest.mark.slow
def test_a_grid_trains_each_as_alone(run: Path, paired_cache: Path, tmp_path: Path) -> None:
    config = config_of(paired_cache, tmp_path / "grid", site=None, target_site=None)
    words = parse_grid([f"site={SITE},{TARGET_SITE}"])
    for one in train_grid(grid_configs(config, words)):
        assert one["held_out"]["fvu"] < 1
    config = dataclasses.replace(config, site=SITE, out=str(tmp_path / "targets"))
    (one,) = grid_configs(config, parse_grid([f"target_site={TARGET_SITE}"]))
    plain = dataclasses.replace(config, out=str(tmp_path / "plain"))
    train_grid([one, plain])
    assert Path(one.out).name == TARGET_SITE
    assert bits(one.out) == bits(run)
    assert bits(plain.out) == bits(tmp_path / "grid" / SITE)


def test_the_evaluation_is_against_the_target_and_its_page_says_so(
    run: Path, paired_cache: Path
) -> None:
    result = evaluate(EvalConfig(sae=str(run), cache=str(paired_cache), contexts=0, device="cpu"))
    assert (result["site"], result["target_site"]) == (SITE, TARGET_SITE)
    cache = ActivationCache(paired_cache)
    held_out = [cache.held_out(site=site) for site in (SITE, TARGET_SITE)]
    assert result["fvu"] == measure_rows(SparseAutoencoder.load(run), *held_out).fvu
    write_plots([result])
    page = (run / "report.html").read_text()
    assert f"transcoder of 70 latents that reads {SITE} and predicts {TARGET_SITE}" in page


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"target_site": SITE}, f"target_site is {SITE}, the site that is read"),
        ({"target_site": "blocks.1.hook_mlp"}, "has no site 'blocks.1.hook_mlp'"),
        ({"activation": "top_afa", "k": None}, "activation is top_afa, which keeps latents"),
        ({"trainer": TrainerConfig(shards=2)}, "only topk without target site"),
    ],
)
def test_what_is_refused(
    paired_cache: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        train(config_of(paired_cache, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_the_only_site_of_a_cache_is_no_target(planted_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the site that is read; give another one"):
        train(config_of(planted_cache, tmp_path / "run", site=None, target_site=SITE))


@pytest.mark.parametrize("row", [torch.zeros(D), 10 * torch.randn(D)], ids=["zeros", "random"])
def test_a_side_that_does_not_vary_is_refused(row: Tensor) -> None:
    sae = SparseAutoencoder(TopKConfig(D, F, K, transcoder=True))
    x, _ = pairs(B)
    alike = row.expand(B, D)
    for sides in ((x, alike), (alike, x)):
        with pytest.raises(InputError, match="the first 31 rows of activations are all alike"):
            initialize_from_rows(sae, *sides)


def test_a_target_that_is_not_finite_is_refused() -> None:
    sae = SparseAutoencoder(TopKConfig(D, F, K, transcoder=True))
    x, y = pairs(B)
    y[3] = torch.inf
    with pytest.raises(InputError, match="1 of the first 31 rows of activations are not finite"):
        initialize_from_rows(sae, x, y)


def test_a_stream_is_refused() -> None:
    stream = StreamConfig(model="m", dataset="d")
    with pytest.raises(InputError, match=f"target_site is {SITE}, but a stream is of one site"):
        TrainConfig(out="o", target_site=SITE, stream=stream)


def test_top_afa_has_no_transcoder() -> None:
    with pytest.raises(InputError, match="choose topk, batch_topk or jumprelu"):
        TopAFAConfig(D, F, transcoder=True)


def test_one_without_an_origin_cannot_be_evaluated(paired_cache: Path, tmp_path: Path) -> None:
    SparseAutoencoder(TopKConfig(12, 20, 3, transcoder=True)).save(tmp_path / "mine")
    settings: Any = {"cache": str(paired_cache), "contexts": 0, "device": "cpu", "site": SITE}
    with pytest.raises(InputError, match="mine does not say which site it predicts"):
        evaluate(EvalConfig(sae=str(tmp_path / "mine"), **settings))


def test_the_site_that_is_predicted_is_not_read(run: Path, paired_cache: Path) -> None:
    settings: Any = {"cache": str(paired_cache), "contexts": 0, "device": "cpu"}
    with pytest.raises(InputError, match=f"predicts {TARGET_SITE} and does not read it"):
        evaluate(EvalConfig(sae=str(run), site=TARGET_SITE, **settings))


def test_a_cache_without_its_target_is_named(run: Path, planted_cache: Path) -> None:
    settings: Any = {"cache": str(planted_cache), "contexts": 0, "device": "cpu"}
    with pytest.raises(InputError, match=f"has no site '{TARGET_SITE}'; it has {SITE}"):
        evaluate(EvalConfig(sae=str(run), **settings))
