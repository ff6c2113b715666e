"""The trainer against a plain dense one: gradients, 50 steps with AuxK off and on, schedules."""

import dataclasses
import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import reference
from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import (
    BatchTopKConfig,
    InputError,
    JumpReLUConfig,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.config import SAEConfig
from sparsteer.sae.metrics import ReconstructionMetrics
from sparsteer.training import trainer as trainer_module
from sparsteer.training.config import TrainConfig
from sparsteer.training.distributed.collectives import Distributed
from sparsteer.training.initialize import (
    geometric_median,
    initialize_from_rows,
)
from sparsteer.training.non_finite import NonFiniteLoss
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

D, F, K, B = 24, 200, 8, 256
CONFIGS: dict[str, SAEConfig] = {
    "topk": TopKConfig(D, F, K),
    "batch_topk": BatchTopKConfig(D, F, K),
    "top_afa": TopAFAConfig(D, F),
    "scaled_top_afa": TopAFAConfig(D, F, target_scale=0.8),
    "jumprelu": JumpReLUConfig(D, F, 0.3),
    "nested_topk": TopKConfig(D, F, K, prefixes=(13, 50, 101)),
    "nested_batch_topk": BatchTopKConfig(D, F, K, prefixes=(50,)),
    "nested_top_afa": TopAFAConfig(D, F, prefixes=(50, 101)),
    "nested_jumprelu": JumpReLUConfig(D, F, 0.3, prefixes=(50, 101)),
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> SAEConfig:
    return CONFIGS[request.param]


def aim(config: SAEConfig) -> int | None:
    """A target L0 for those that have one."""
    return K if isinstance(config, JumpReLUConfig) else None


def planted_rows(n_rows: int) -> Tensor:
    """Rows made of few of 60 planted directions, plus noise and a mean."""
    directions = torch.randn(60, D, generator=torch.Generator().manual_seed(7))
    chosen = torch.rand(n_rows, 60) < 0.08
    rows = (chosen * torch.rand(n_rows, 60).add(0.5)) @ directions
    return 2 * rows + 0.1 * torch.randn(n_rows, D) + 0.5


class DenseJump(torch.autograd.Function):
    """Activations and steps of dense pre-activations, by the reference's gradients."""

    @staticmethod
    def forward(
        ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return reference.jumprelu(pre, threshold), (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - two outputs
        ctx: Any, acts: Tensor, steps: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        jumps = reference.jumprelu_threshold_gradient(pre, threshold, ctx.bandwidth, acts, steps)
        return acts * (pre > threshold), jumps, None


class DenseTrainer:
    """What the trainer should amount to, written densely: autograd over [B, F], plain Adam."""

    def __init__(self, sae: SparseAutoencoder, like: Trainer) -> None:
        self.config, self.like = sae.config, like
        self.W_dec = sae.W_dec.detach().clone().requires_grad_()
        self.W_enc = sae.W_enc.detach().clone().requires_grad_()
        self.b_enc = sae.b_enc.detach().clone().requires_grad_()
        self.b_dec = sae.b_dec.detach().clone().requires_grad_()
        self.exponent: Tensor | None = None
        if isinstance(sae.config, JumpReLUConfig):
            self.exponent = (
                sae.get_parameter("threshold_exponent").detach().clone().requires_grad_()
            )
        self.since_fired = torch.zeros(F)
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters()]
        self.steps = 0

    def parameters(self) -> list[Tensor]:
        own = [] if self.exponent is None else [self.exponent]
        return [self.W_dec, self.W_enc, self.b_enc, self.b_dec, *own]

    def acts(self, x: Tensor) -> Tensor:
        pre = reference.pre_activations(x, self.b_dec, self.W_enc, self.b_enc)
        if isinstance(self.config, JumpReLUConfig):
            assert self.exponent is not None
            threshold = (D**0.5 * self.exponent).exp()
            jump = DenseJump.apply(pre, threshold, self.config.bandwidth)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - autograd.Function is untyped
            acts, self.l0 = cast(tuple[Tensor, Tensor], jump)
            return acts
        if isinstance(self.config, TopKConfig):
            codes = reference.topk_select(pre.detach(), self.config.k)
        elif isinstance(self.config, BatchTopKConfig):
            codes = reference.batch_topk_select(pre.detach(), self.config.k)
        else:
            assert isinstance(self.config, TopAFAConfig)
            norms = self.W_dec.detach().square().sum(-1).sqrt()
            target = (x - self.b_dec.detach()).square().sum(-1).sqrt()
            target = self.config.target_scale * target
            codes = reference.top_afa_select(pre.detach(), norms, target)
        return pre.relu() * (codes.dense(F) > 0)

    def loss(self, x: Tensor) -> Tensor:
        trainer = self.like.config
        acts = self.acts(x)
        error = x - acts @ self.W_dec - self.b_dec
        ends = (*self.config.prefixes, F)
        partial = [acts[:, :end] @ self.W_dec[:end] + self.b_dec for end in ends]
        loss = torch.stack([x_hat - x for x_hat in partial]).square().mean()
        if isinstance(self.config, JumpReLUConfig):
            count = self.l0 if trainer.sparsity == "step" else (4 * acts).tanh()
            gap = count.sum(-1).mean() / trainer.activation_settings(self.config)["target_l0"] - 1
            loss = loss + trainer.sparsity_coefficient * gap.square()
        if isinstance(self.config, TopAFAConfig):
            scale = self.config.target_scale
            gap = acts.square().sum(-1).sqrt() - scale * x.square().sum(-1).sqrt()
            loss = loss + trainer.afa_coefficient * gap.square().mean()
        dead = self.since_fired >= self.like.dead_after_tokens
        if trainer.auxk_coefficient and dead.any():
            pre = reference.pre_activations(x, self.b_dec, self.W_enc, self.b_enc)[:, dead]
            k_aux = min(self.like.k_aux, int(dead.sum()))
            kept = reference.topk_select(pre.detach(), k_aux).dense(int(dead.sum())) > 0
            residual = error.detach()
            aux = ((pre.relu() * kept) @ self.W_dec[dead] - residual).square().mean()
            variance = (residual - residual.mean(0)).square().mean()
            loss = loss + trainer.auxk_coefficient * aux / variance
        self.fired = (acts > 0).any(0)
        return loss

    def step(self, x: Tensor) -> None:
        gradients = list(torch.autograd.grad(self.loss(x), self.parameters()))
        with torch.no_grad():
            gradients[0] = reference.project_rows(gradients[0], self.W_dec)
            lr, config = self.like.learning_rate(self.steps), self.like.config
            self.steps += 1
            for p, g, (m, v) in zip(self.parameters(), gradients, self.moments, strict=True):
                m.mul_(config.beta1).add_(g, alpha=1 - config.beta1)
                v.mul_(config.beta2).add_(g * g, alpha=1 - config.beta2)
                m_hat = m / (1 - config.beta1**self.steps)
                v_hat = v / (1 - config.beta2**self.steps)
                p -= lr * m_hat / (v_hat.sqrt() + 6.25e-10)
            self.W_dec /= self.W_dec.square().sum(-1, keepdim=True).sqrt()
            self.since_fired += len(x)
            self.since_fired[self.fired] = 0

    @torch.no_grad()
    def fvu(self, x: Tensor) -> float:
        error = x - self.acts(x) @ self.W_dec - self.b_dec
        return float(error.square().sum() / (x - x.mean(0)).square().sum())


@pytest.mark.slow
@pytest.mark.parametrize("auxk", [0.0, 1 / 32], ids=["no-auxk", "auxk"])
def test_fifty_steps_land_where_a_dense_trainer_does(config: SAEConfig, auxk: float) -> None:
    settings = TrainerConfig(
        tokens=50 * B,
        batch_size=B,
        lr=3e-3,
        auxk_coefficient=auxk,
        dead_after_tokens=3 * B,
        target_l0=aim(config),
        clip_norm=0.0,  # which the dense trainer does not do
    )
    sae = SparseAutoencoder(config, seed=1).double()
    sample = planted_rows(1000).double()
    initialize_from_rows(sae, sample)
    sae.activation.initialize(sae, sample, {"target_l0": K})
    with torch.no_grad():
        sae.b_enc[:30] = -4  # silent from the start, so that AuxK has work
    trainer = Trainer(sae, settings)
    dense = DenseTrainer(sae, trainer)
    saw_dead = False
    for _ in range(50):
        x = planted_rows(B).double()
        saw_dead |= len(trainer.dead_latents()) > 0
        trainer.step(x)
        dense.step(sae.scaled(x))
    assert saw_dead, "the comparison never met a dead latent"
    x = sae.scaled(planted_rows(2000).double())
    with torch.no_grad():
        x_hat = sae.decode_scaled(sae.encode_train(x))
        ours = float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())
    assert ours < 0.65
    assert abs(ours - dense.fvu(x)) <= 0.01 * dense.fvu(x)
    torch.testing.assert_close(sae.W_dec.data, dense.W_dec.data, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sparsity", ["step", "tanh"])
def test_gradients_equal_dense_autograd(config: SAEConfig, sparsity: Any) -> None:
    sae = SparseAutoencoder(config, seed=2).double()
    trainer = Trainer(
        sae, TrainerConfig(dead_after_tokens=1, sparsity=sparsity, target_l0=aim(config))
    )
    trainer.tokens_since_fired[::3] = 5
    dense = DenseTrainer(sae, trainer)
    dense.since_fired[::3] = 5
    x = planted_rows(B).double()
    loss = trainer.loss(x, trainer.dead_latents()).total
    torch.testing.assert_close(loss, dense.loss(x))
    parameters = dict(sae.named_parameters())
    names = ["W_dec", "W_enc", "b_enc", "b_dec"]
    names += ["threshold_exponent"] * isinstance(config, JumpReLUConfig)
    assert sorted(names) == sorted(parameters)
    ours = torch.autograd.grad(loss, [parameters[name] for name in names])
    for name, got, want in zip(
        names,
        ours,
        torch.autograd.grad(dense.loss(x), dense.parameters()),
        strict=True,
    ):
        assert (want != 0).any(), name
        torch.testing.assert_close(got, want, msg=lambda text, name=name: f"{name}: {text}")


def test_rows_stay_on_the_unit_sphere_and_step_leaves_the_scale() -> None:
    sae = SparseAutoencoder(TopKConfig(D, F, K))
    trainer = Trainer(sae, TrainerConfig(tokens=20 * B, batch_size=B, lr=1e-2))
    initialize_from_rows(sae, planted_rows(1000))
    before = sae.input_scale.clone(), sae.input_center.clone()
    metrics = [trainer.step(planted_rows(B)) for _ in range(20)][-1]
    torch.testing.assert_close(sae.decoder_norms(), torch.ones(F))
    assert torch.equal(sae.input_scale, before[0])
    assert torch.equal(sae.input_center, before[1])
    assert all(map(math.isfinite, metrics.figures().values()))
    assert float(metrics.l0) <= K


def test_a_step_that_is_not_measured_changes_the_same(config: SAEConfig) -> None:
    settings = TrainerConfig(tokens=20 * B, batch_size=B, target_l0=aim(config))
    measured, silent = (Trainer(SparseAutoencoder(config, seed=4), settings) for _ in range(2))
    for rows in (planted_rows(B), planted_rows(B)):
        assert silent.step(rows, measured=False) is None
        assert float(measured.step(rows).loss) > 0
    for name, tensor in measured.sae.state_dict().items():
        assert torch.equal(silent.sae.state_dict()[name], tensor), name
    assert torch.equal(silent.tokens_since_fired, measured.tokens_since_fired)


@pytest.mark.parametrize("bad", [torch.full((B, D), 3.0), torch.full((B, D), math.nan)])
def test_the_first_step_initializes_a_new_autoencoder(config: SAEConfig, bad: Tensor) -> None:
    """As `initialize` does; a batch that tells nothing is passed over."""
    settings = TrainerConfig(tokens=20 * B, batch_size=B, target_l0=aim(config))
    first = 50 * planted_rows(B) + 1000
    called, left = (Trainer(SparseAutoencoder(config, seed=4), settings) for _ in range(2))
    called.initialize(first)
    if bad.isnan().any():
        with pytest.raises(NonFiniteLoss):
            left.step(bad)
    for trainer in (called, left):
        trainer.step(first)
    for name, tensor in called.sae.state_dict().items():
        assert torch.equal(tensor, left.sae.state_dict()[name]), name
    loaded = Trainer(called.sae, settings)
    loaded.step(planted_rows(B))
    assert torch.equal(loaded.sae.input_scale, left.sae.input_scale)


def test_clipping_bounds_the_gradients_that_the_moments_see() -> None:
    moments: list[float] = []
    for clip_norm in (0.0, 1e-3):
        trainer = Trainer(
            SparseAutoencoder(TopKConfig(D, F, K)), TrainerConfig(clip_norm=clip_norm)
        )
        trainer.step(planted_rows(B))
        first = torch.cat([moment.flatten() for moment in trainer.optimizer.first.values()])
        moments.append(float(first.square().sum().sqrt()) / (1 - trainer.config.beta1))
    assert moments[0] > 1e-2
    assert 0.5e-3 < moments[1] <= 1e-3 * (1 + 1e-5)


def test_initialization_makes_the_mean_squared_norm_about_the_median_d() -> None:
    rows = planted_rows(3000)
    sae = SparseAutoencoder(TopKConfig(D, F, K))
    initialize_from_rows(sae, rows)
    scaled = sae.scaled(rows)
    assert float(scaled.square().sum(-1).mean()) == pytest.approx(D, rel=1e-5)
    median = geometric_median(rows.double()).float()
    torch.testing.assert_close(sae.decoder_center, median, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_top_afa_does_not_collapse_where_rows_share_a_large_mean() -> None:
    directions = torch.nn.functional.normalize(torch.randn(F, D), dim=-1)
    mean = 6 * torch.nn.functional.normalize(torch.randn(D), dim=-1)

    def rows(n_rows: int) -> Tensor:
        acts = (torch.rand(n_rows, F) < 4 / F) * (1 + 2 * torch.rand(n_rows, F))
        return acts @ directions + mean

    sae = SparseAutoencoder(TopAFAConfig(D, F))
    initialize_from_rows(sae, rows(1000))
    trainer = Trainer(sae, TrainerConfig(tokens=200 * 128, batch_size=128, lr=3e-3))
    for _ in range(200):
        trainer.step(rows(128))
    measures = ReconstructionMetrics(sae)
    measures.update(rows(1000))
    assert measures.fvu < 0.6
    assert measures.result()["l0"] > 5


def test_geometric_median_minimizes_the_sum_of_distances_and_ignores_an_outlier() -> None:
    rows = torch.randn(400, 5, dtype=torch.float64)
    median = geometric_median(rows)

    def cost(point: Tensor) -> float:
        return float((rows - point).square().sum(-1).sqrt().sum())

    for _ in range(50):
        assert cost(median) <= cost(median + 0.01 * torch.randn(5, dtype=torch.float64)) + 1e-9
    moved = geometric_median(torch.cat([rows, torch.full((4, 5), 1e6, dtype=torch.float64)]))
    assert (moved - median).abs().max() < 0.1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_row_stops_before_anything_changes(bad: float) -> None:
    sae = SparseAutoencoder(TopKConfig(D, F, K))
    trainer = Trainer(sae, TrainerConfig())
    trainer.step(planted_rows(B))
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    rows = planted_rows(B)
    rows[17, 3] = bad
    with pytest.raises(NonFiniteLoss, match=r"step 1 .*row 17 of its batch is not finite \(1 such"):
        trainer.step(rows)
    assert trainer.steps_done == 1
    for name, tensor in sae.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("late", [False, True], ids=["at once", "as on a GPU"])
@pytest.mark.parametrize("ema_decay", [0.5, 0.99])
def test_a_step_that_is_not_done_leaves_averages_and_threshold(
    late: bool, ema_decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU tells only at the next step that the loss was not finite."""

    def is_late(tensor: Tensor) -> bool:
        return late

    monkeypatch.setattr(trainer_module, "uses_triton", is_late)
    settings = TrainerConfig(tokens=64 * B, batch_size=B, lr=1e-2, ema_decay=ema_decay)
    trainer = Trainer(SparseAutoencoder(BatchTopKConfig(D, F, K)), settings)
    assert trainer.averages is not None
    for _ in range(3):
        trainer.step(planted_rows(B))
    trainer.synchronize()
    threshold = trainer.sae.get_buffer("threshold")
    assert float(threshold) > 0
    state = {"threshold": threshold, **trainer.averages.tensors, **trainer.optimizer.state()}
    before = {name: tensor.clone() for name, tensor in state.items()}
    rows = planted_rows(B)
    rows[17, 3] = torch.nan
    with pytest.raises(NonFiniteLoss, match="step 3 "):
        trainer.step(rows)
        assert late
        trainer.synchronize()
    for name, tensor in state.items():
        assert torch.equal(tensor, before[name]), name
    trainer.step(planted_rows(B))
    trainer.synchronize()
    assert all((tensor != before[name]).any() for name, tensor in state.items())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "as on a GPU"])
def test_a_first_batch_that_is_not_finite_is_told_before_anything(
    config: SAEConfig, bad: float, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_late(tensor: Tensor) -> bool:
        return late

    monkeypatch.setattr(trainer_module, "uses_triton", is_late)
    sae = SparseAutoencoder(config)
    trainer = Trainer(sae, TrainerConfig(ema_decay=0.9))
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    rows = planted_rows(B)
    rows[17, 3] = bad
    with pytest.raises(NonFiniteLoss, match=r"step 0 .*row 17 of its batch is not finite \(1 such"):
        trainer.step(rows)
    assert trainer.steps_done == 0
    for name, tensor in sae.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_batch_of_equal_rows_has_no_variance_to_explain() -> None:
    trainer = Trainer(SparseAutoencoder(TopKConfig(D, F, K)))
    metrics = trainer.step(torch.randn(1, D).expand(8, D))
    assert float(metrics.fvu) == 1 and float(metrics.mse) > 0


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("shape", [(5, D + 1), (D,), (0, D), (2, 3, D)])
def test_a_batch_of_another_shape_is_named(shape: tuple[int, ...]) -> None:
    trainer = Trainer(SparseAutoencoder(TopKConfig(D, F, K)))
    with pytest.raises(ValueError, match="x has shape"):
        trainer.step(torch.randn(shape))


def test_rows_that_were_made_in_inference_mode_train() -> None:
    with torch.inference_mode():
        rows = planted_rows(B)
    trainer = Trainer(SparseAutoencoder(TopKConfig(D, F, K)), TrainerConfig(batch_size=B))
    assert trainer.step(rows).loss.isfinite() and trainer.steps_done == 1


def test_the_learning_rate_rises_stays_and_falls() -> None:
    config = TrainerConfig(tokens=1000 * B, batch_size=B, lr=0.5)
    trainer = Trainer(SparseAutoencoder(TopKConfig(D, F, K)), config)
    rates = [trainer.learning_rate(step) for step in range(1000)]
    assert 0 < rates[0] < 0.02 and rates[100:700] == [0.5] * 600
    assert rates == sorted(rates[:500]) + sorted(rates[500:], reverse=True)
    assert 0 < rates[-1] < 0.01


def test_the_default_rate_falls_with_the_width() -> None:
    config = TrainerConfig(tokens=10**6)
    narrow, wide = (
        Trainer(SparseAutoencoder(TopKConfig(4, n_latents, 2)), config)
        for n_latents in (2**12, 2**14)
    )
    assert narrow.lr == pytest.approx(2 * wide.lr, rel=0.01)
    assert narrow.config == dataclasses.replace(wide.config, lr=narrow.lr)
    assert wide.config.batch_size == config.rows_per_step


def test_latents_die_after_silence_and_revive_on_firing() -> None:
    sae = SparseAutoencoder(TopKConfig(D, F, K))
    trainer = Trainer(sae, TrainerConfig(dead_after_tokens=2 * B))
    with torch.no_grad():
        sae.b_enc[5] = -1e6
    for _ in range(2):
        trainer.step(planted_rows(B))
    assert 5 in trainer.dead_latents()
    with torch.no_grad():
        sae.b_enc[5] = 1e3
    metrics = trainer.step(planted_rows(B))
    assert 5 not in trainer.dead_latents() and float(metrics.dead_fraction) > 0


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"tokens": 100, "batch_size": 200}, "tokens"),
        ({"tokens": 0}, "tokens"),
        ({"lr": math.nan}, "lr"),
        ({"beta2": 1.0}, "beta2"),
        ({"clip_norm": -0.1}, "clip_norm"),
        ({"clip_norm": math.nan}, "clip_norm"),
        ({"warmup_fraction": -0.5}, "warmup_fraction"),
        ({"k_aux": 0}, "k_aux"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, float], field: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainerConfig(**values)  # pyright: ignore[reportArgumentType] - wrong on purpose
    assert caught.value.field == field


@pytest.mark.slow
def test_batch_topk_threshold_follows_the_smallest_kept_activation() -> None:
    sae = SparseAutoencoder(BatchTopKConfig(D, F, K))
    initialize_from_rows(sae, planted_rows(1000))
    trainer = Trainer(sae, TrainerConfig(tokens=100 * B, batch_size=B, lr=1e-3))
    expected = 0.0
    for _ in range(100):
        x = planted_rows(B)
        values = sae.encode_train(sae.scaled(x)).values.detach()
        assert (values > 0).sum() == K * B
        least = float(values[values > 0].min())
        expected = 0.95 * expected + 0.05 * least if expected else least
        trainer.step(x)
    assert float(sae.get_buffer("threshold")) == pytest.approx(expected, rel=1e-4)
    x = planted_rows(4000)
    codes = sae.encode(x)
    assert float((codes.values > 0).sum(-1).float().mean()) == pytest.approx(K, rel=0.25)
    alone = torch.cat([sae.encode(row[None]).dense(F) for row in x[:20]])
    torch.testing.assert_close(codes.dense(F)[:20], alone, msg="a row depends on its batch")


def test_a_batch_without_any_activation_leaves_the_threshold() -> None:
    sae = SparseAutoencoder(BatchTopKConfig(D, F, K))
    sae.get_buffer("threshold").fill_(0.7)
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    sae.activation.after_step(sae, sae.encode_train(torch.randn(5, D)), {}, Distributed())
    assert float(sae.get_buffer("threshold")) == pytest.approx(0.7)


@pytest.mark.slow
@pytest.mark.parametrize(("sparsity", "start"), [("step", 3), ("step", 25), ("tanh", 3)])
def test_jumprelu_comes_to_its_target_from_either_side(sparsity: Any, start: int) -> None:
    sae = SparseAutoencoder(JumpReLUConfig(D, F, 0.3))
    sample = planted_rows(1000)
    initialize_from_rows(sae, sample)
    sae.activation.initialize(sae, sample, {"target_l0": start})
    before = sae.thresholds().detach().log()
    l0 = (sae.encode(sample).values > 0).sum(-1).float().mean()
    assert float(l0) == pytest.approx(start, rel=0.02)
    settings = TrainerConfig(
        tokens=200 * 128, batch_size=128, lr=6e-3, sparsity=sparsity, target_l0=K
    )
    trainer = Trainer(sae, settings)
    metrics = [trainer.step(planted_rows(128)) for _ in range(200)]
    reached = sum(float(m.l0) for m in metrics[-20:]) / 20
    assert reached == pytest.approx(K, rel=0.2)
    moved = (sae.thresholds().detach().log() - before).abs()
    assert float(moved.median()) > 0.05, "thresholds hardly moved"


def test_the_first_latents_of_a_nested_dictionary_reconstruct_alone() -> None:
    def fvu_of_the_first(prefixes: tuple[int, ...]) -> float:
        sae = SparseAutoencoder(TopKConfig(D, F, K, prefixes=prefixes), seed=3)
        rows = planted_rows(2000)
        initialize_from_rows(sae, rows)
        trainer = Trainer(sae, TrainerConfig(tokens=60 * B, batch_size=B, lr=6e-3))
        for _ in range(60):
            trainer.step(planted_rows(B))
        x = sae.scaled(rows)
        with torch.no_grad():
            acts = sae.encode_scaled(x).dense(F)[:, :40]
            error = x - acts @ sae.W_dec[:40] - sae.b_dec
        return float(error.square().sum() / (x - x.mean(0)).square().sum())

    assert fvu_of_the_first((40,)) < 0.8 * fvu_of_the_first(())


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"activation": "jumprelu", "k": 8}, "k"),
        ({"activation": "topk", "bandwidth": 0.1}, "bandwidth"),
        ({"target_scale": 0.5}, "target_scale"),
        ({"prefixes": (2.5,)}, "prefixes"),
        ({"prefixes": (0.0,)}, "prefixes"),
        ({"prefixes": (math.nan,)}, "prefixes"),
    ],
)
def test_settings_of_another_activation_are_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainConfig(cache="c", out="o", **values)
    assert caught.value.field == field


def test_prefixes_may_be_shares() -> None:
    config = TrainConfig(cache="c", out="o", prefixes=(0.0001, 0.25, 64.0))
    assert config.sae_config(16).prefixes == (1, 32, 64)
    for prefixes in [(64.0, 0.25), (0.25, 32.0), (128.0,), (200.0,)]:
        with pytest.raises(InputError, match="do not rise below the 128 latents"):
            dataclasses.replace(config, prefixes=prefixes).sae_config(16)


def test_each_activation_has_its_configuration() -> None:
    def made(**values: Any) -> SAEConfig:
        return TrainConfig(cache="c", out="o", n_latents=64, **values).sae_config(16)

    assert made(activation="batch_topk", k=5) == BatchTopKConfig(16, 64, 5)
    assert made(activation="top_afa", target_scale=0.5) == TopAFAConfig(16, 64, target_scale=0.5)
    assert made(activation="jumprelu") == JumpReLUConfig(16, 64)
    assert made(activation="jumprelu", bandwidth=0.5) == JumpReLUConfig(16, 64, 0.5)


def test_top_afa_keeps_fewer_latents_of_a_smaller_norm() -> None:
    x = torch.randn(40, D)
    counts: list[Tensor] = []
    for scale in (0.4, 0.7, 1.0):
        codes = SparseAutoencoder(TopAFAConfig(D, F, target_scale=scale), seed=2).encode(x)
        assert codes.counts is not None
        counts.append(codes.counts)
        gap = (row_norms(codes.values) - scale * row_norms(x)).abs()
        assert (gap <= codes.values[:, 0] + 1e-5).all()
    assert (counts[0] <= counts[1]).all() and (counts[1] <= counts[2]).all()
    assert (counts[0] < counts[2]).all()


def test_top_afa_has_no_k() -> None:
    with pytest.raises(
        InputError, match=r"k is 8, but top_afa has none; .* choose activation topk or batch_topk"
    ):
        TrainConfig(cache="c", out="o", activation="top_afa", k=8)
    assert TrainConfig(cache="c", out="o").sae_config(16) == TopKConfig(16, 128, 32)
    assert TrainConfig(cache="c", out="o", activation="top_afa").sae_config(16) == TopAFAConfig(
        16, 128
    )


@pytest.mark.parametrize(("fraction", "n"), [(0.25, 64), (0.1, 26), (1e-6, 2), (1.0, 256)])
def test_auxk_of_a_fraction_is_that_of_the_first_rows(fraction: float, n: int) -> None:
    x, dead = planted_rows(B), torch.tensor([3, 77, 150])
    sae = SparseAutoencoder(TopKConfig(D, F, K))
    gradients: list[Tensor] = []
    for config, rows in ((TrainerConfig(auxk_fraction=fraction), x), (TrainerConfig(), x[:n])):
        sae.zero_grad()
        auxk = Trainer(sae, config).loss(rows, dead).terms["auxk"]
        auxk.backward()  # pyright: ignore[reportUnknownMemberType] - untyped
        assert sae.W_dec.grad is not None
        gradients += [auxk.detach(), sae.W_dec.grad.clone()]
    torch.testing.assert_close(gradients[0], gradients[2])
    torch.testing.assert_close(gradients[1], gradients[3])
    assert gradients[1][dead].any() and not gradients[1][0].any()


@pytest.mark.parametrize("fraction", [0.0, 1.5, float("nan")])
def test_a_fraction_of_rows_lies_between_0_and_1(fraction: float) -> None:
    with pytest.raises(InputError, match="auxk_fraction is"):
        TrainerConfig(auxk_fraction=fraction)


def test_weights_do_not_depend_on_the_threads_while_latents_are_dead() -> None:
    """With more values in a batch than PyTorch sums in one thread."""
    d_model, n_rows = 576, 256
    x = torch.randn(6 * n_rows, 2 * d_model) @ torch.randn(2 * d_model, d_model)
    ends: list[dict[str, Tensor]] = []
    try:
        for threads in (1, 2):
            sae = SparseAutoencoder(TopKConfig(d_model, 1024, 32))
            sae.b_enc.data[:100] = -100
            torch.set_num_threads(threads)
            trainer = Trainer(sae, TrainerConfig(lr=1e-3, dead_after_tokens=n_rows))
            auxk = [trainer.step(batch).figures()["auxk"] for batch in torch.split(x, n_rows)]
            assert min(auxk[1:]) > 0
            ends.append({name: tensor.clone() for name, tensor in sae.state_dict().items()})
    finally:
        torch.set_num_threads(1)
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name
