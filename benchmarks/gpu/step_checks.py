"""Whole training steps: they repeat, they wait for nothing, and CUDA graphs hold them."""

from functools import partial

import torch
from torch import Tensor

from sparsteer.kernels.decode import decode, decode_mse
from sparsteer.kernels.encode import encode_topk
from sparsteer.kernels.topk import topk_select
from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.training.graph_trainer import GraphTrainer
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from .device import Device
from .operator_checks import drawn, dtype_of
from .rows import Judged, NotThere, Rows
from .sizes import SMALL, TINY, Sizes, trainer_precision

ROUNDS, N_BATCHES = 4, 4
"""How often each batch is trained on, and how many there are."""


def check_steps(device: Device, rows: Rows, tiny: bool) -> None:
    """The small size in every precision, with dead latents that AuxK revives."""
    sizes = TINY if tiny else SMALL
    precisions = ("bfloat16", "float32") if tiny else ("bfloat16", "float32", "tf32")
    for precision in precisions:
        rows.run(f"steps repeat, {precision}", partial(check_repeats, device, sizes, precision))
    for precision in precisions:
        rows.run(f"steps wait, {precision}", partial(check_waits, device, sizes, precision))
    # A failed capture may leave the device unusable: last.
    rows.run("operators in a graph", partial(check_operators_in_graph, device, sizes))
    for precision in ("float32", "bfloat16"):
        rows.run(f"step in a graph, {precision}", partial(check_graph, device, sizes, precision))
    for precision in precisions:
        rows.run(f"steps replayed, {precision}", partial(check_replays, device, sizes, precision))


def trainer_of(
    device: Device, sizes: Sizes, precision: str, *, cuda_graph: bool = False
) -> Trainer:
    """A new trainer whose last tenth of latents is silent."""
    dtype_of(precision)
    B, D, F, k = sizes
    sae = SparseAutoencoder(TopKConfig(D, F, k)).to(device.kind)
    config = TrainerConfig(
        tokens=100 * B,
        batch_size=B,
        lr=1e-3,
        dead_after_tokens=3 * B,
        precision=trainer_precision(precision, device.kind),
        cuda_graph=cuda_graph,
    )
    trainer = GraphTrainer(sae, config) if cuda_graph else Trainer(sae, config)
    trainer.initialize(batches(device, sizes, 1)[0])
    with torch.no_grad():
        sae.b_enc[-max(1, F // 10) :] = -9
    return trainer


def batches(device: Device, sizes: Sizes, n: int) -> list[Tensor]:
    """The same ones at each call: sums of few of fixed directions, and noise."""
    torch.default_generator.manual_seed(3)
    if device.kind == "cuda":
        torch.cuda.manual_seed_all(3)
    directions = drawn(device, 4 * sizes.width, sizes.width)
    found: list[Tensor] = []
    for _ in range(n):
        chosen = torch.rand(sizes.rows, len(directions), device=device.kind) < 0.02
        found.append(chosen.float() @ directions + 0.1 * drawn(device, sizes.rows, sizes.width))
    return found


def check_repeats(device: Device, sizes: Sizes, precision: str) -> Judged:
    """Two runs end with the same bits; the loss falls; AuxK had work."""
    found = Judged()
    ends: list[list[Tensor]] = []
    for _ in range(2):
        trainer = trainer_of(device, sizes, precision)
        rounds = min(ROUNDS, 1 + device.most_repeats)
        metrics = [trainer.step(x) for x in batches(device, sizes, N_BATCHES) * rounds]
        trainer.synchronize()
        ends.append([p.detach().clone() for p in trainer.sae.parameters()])
        losses = [float(each.mse) for each in metrics]
        first, last = losses[0], losses[-N_BATCHES]  # of the same batch
        found.note(first_loss=first, last_loss=last)
        found.holds("falls", last < first)
        found.holds("some_dead", max(float(each.dead_fraction) for each in metrics) > 0.05)
    found.holds("same_bits", all(torch.equal(a, b) for a, b in zip(*ends, strict=True)))
    return found


def check_waits(device: Device, sizes: Sizes, precision: str) -> Judged:
    """No step waits for the device but for what was copied before."""
    trainer = trainer_of(device, sizes, precision)
    first, second, *rest = batches(device, sizes, 6)
    for x in (first, second, first, second, first):  # compiles, and knows the dead latents
        trainer.step(x)
    device.synchronize()
    found = Judged()
    try:
        with device.no_waiting():
            for x in rest:
                trainer.step(x)
    except RuntimeError as error:
        found.note(where=str(error).splitlines()[0][:120])
        found.holds("waits_for_nothing", False)
        return found
    found.holds("waits_for_nothing", True)
    return found


def check_operators_in_graph(device: Device, sizes: Sizes) -> Judged:
    """Selection, decoding and the encoder replay on new rows."""
    B, D, F, k = sizes
    found = Judged()
    dtype = dtype_of("bfloat16")
    x, W = drawn(device, B, D, dtype=dtype), drawn(device, F, D, dtype=dtype)
    b_enc, b_dec = drawn(device, F, dtype=dtype), drawn(device, D, dtype=dtype)
    pre = x @ W.T
    codes = topk_select(pre, k)
    calls = {
        "topk_select": lambda: topk_select(pre, k).values,
        "decode": lambda: decode(codes, W, b_dec),
        "decode_mse": lambda: decode_mse(codes, W, b_dec, x).x_hat,
        "encode_topk": lambda: encode_topk(x, b_dec, W, b_enc, k).values,
    }
    with torch.no_grad():
        for name, call in calls.items():
            try:
                replay = device.captured(call)
            except RuntimeError as error:
                found.note(**{name: f"not capturable: {str(error).splitlines()[0][:80]}"})
                continue
            x.copy_(drawn(device, B, D, dtype=dtype))
            pre.copy_(x @ W.T)
            replayed = replay().clone()
            found.holds(name, torch.equal(replayed, call()))
    return found


def check_graph(device: Device, sizes: Sizes, precision: str) -> Judged:
    """Loss and gradients of a step as one graph, which is told and no failure where it cannot."""
    trainer = trainer_of(device, sizes, precision)
    x, other = batches(device, sizes, 2)
    trainer.step(x)
    trainer.synchronize()
    none_dead = torch.empty(0, dtype=torch.int64, device=device.kind)
    weights = list(trainer.sae.parameters())

    def call() -> list[Tensor]:
        losses = trainer.loss(trainer.sae.scaled(x), none_dead)
        return [losses.total.detach(), *torch.autograd.grad(losses.total, weights)]

    found = Judged()
    try:
        replay = device.captured(call)
    except RuntimeError as error:
        return found.note(captured=f"no: {str(error).splitlines()[0][:120]}")
    x.copy_(other)
    replayed = [tensor.clone() for tensor in replay()]
    found.note(captured="yes")
    found.holds("same", all(torch.equal(a, b) for a, b in zip(replayed, call(), strict=True)))
    return found


def check_replays(device: Device, sizes: Sizes, precision: str) -> Judged:
    """Steps of `cuda_graph` end with the same bits whether they are replayed or, since they are
    measured, launched one by one; the learning rate rises meanwhile, and AuxK has work."""
    if device.kind != "cuda":
        raise NotThere("CUDA graphs")
    ends: list[list[Tensor]] = []
    fractions: list[float] = []
    for measured in (False, True):
        trainer = trainer_of(device, sizes, precision, cuda_graph=True)
        for x in batches(device, sizes, N_BATCHES) * 6:
            if (metrics := trainer.step(x, measured=measured)) is not None:
                fractions.append(float(metrics.dead_fraction))
        trainer.synchronize()
        state = [*trainer.sae.parameters(), *trainer.optimizer.state().values()]
        ends.append([tensor.detach().clone() for tensor in state])
    found = Judged().note(largest_dead_fraction=max(fractions))
    found.holds("some_dead", max(fractions) > 0.05)
    found.holds("same_bits", all(torch.equal(a, b) for a, b in zip(*ends, strict=True)))
    return found
