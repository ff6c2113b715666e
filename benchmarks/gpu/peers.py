"""Other ways to train the same autoencoder, in the same run: plain PyTorch, sparsify, SAELens.

The toolkits are timed where they can be imported, from the environment or from wheels in a folder.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from dense_trainer import DenseTrainer
from torch import Tensor
from torch.nn.functional import embedding_bag, linear, mse_loss

from .device import Device
from .operator_checks import drawn, dtype_of
from .rows import Judged, NotThere, Rows
from .sizes import LARGE, SMALL, TINY, Sizes
from .step_times import random_autoencoder, trainer_with_dead

Step = Callable[[Tensor], object]
_OURS = "sparsteer"


def time_peers(device: Device, rows: Rows, tiny: bool) -> None:
    """Ours first at each size and precision; the others are given as multiples of it."""
    plan = [(SMALL, "bfloat16"), (SMALL, "tf32"), (LARGE, "bfloat16"), (SMALL, "float32")]
    for sizes, precision in [(TINY, "float32")] if tiny else plan:
        ours: dict[str, float] = {}
        for name in _PEERS:
            device.release()
            rows.run(
                f"{name}, step {sizes} {precision}",
                partial(_timed, device, sizes, precision, name, ours),
            )


def add_wheels(folder: Path) -> None:
    """Make importable what lies in a folder: packages, and wheels of plain Python as they are."""
    sys.path += [str(folder), *map(str, sorted(folder.glob("*.whl")))]


def _timed(
    device: Device,
    sizes: Sizes,
    precision: str,
    name: str,
    ours: dict[str, float],
) -> Judged:
    step = _PEERS[name](device, sizes, precision)
    x = drawn(device, sizes.rows, sizes.width)
    dtype_of(precision)
    step(x)
    ms = device.median_ms(lambda: step(x), 8 if sizes.weights < 1 << 26 else 4)
    if name == _OURS:
        ours[name] = ms
    times = ms / ours[_OURS] if ours else float("nan")
    return Judged().note(ms=ms, times_ours=times, peak_gb=device.peak_gb())


@contextmanager
def _autocast(device: Device, precision: str) -> Generator[None]:
    with torch.autocast(device.kind, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def _ours(device: Device, sizes: Sizes, precision: str) -> Step:
    return partial(trainer_with_dead(device, sizes, precision, 0).step, measured=False)


def _dense(device: Device, sizes: Sizes, precision: str) -> Step:
    need = 6 * 4 * sizes.rows * sizes.latents / 1e9 + 32 * sizes.weights / 1e9
    if device.free_gb() < need:
        raise NotThere(f"memory: about {need:.0f} GB of the device")
    trainer = DenseTrainer(random_autoencoder(device, sizes), lr=1e-4)

    def step(x: Tensor) -> None:
        with _autocast(device, precision):
            trainer.step(x)

    return step


def _sparse(device: Device, sizes: Sizes, precision: str) -> Step:
    """torch.topk, and a sum of gathered rows in place of the dense decoder."""
    sae = random_autoencoder(device, sizes)
    weights = b_dec, W_enc, b_enc, W_dec = [
        p.detach().clone().requires_grad_() for p in (sae.b_dec, sae.W_enc, sae.b_enc, sae.W_dec)
    ]
    optimizer = torch.optim.Adam(weights, lr=1e-4, fused=True)

    def step(x: Tensor) -> None:
        with _autocast(device, precision):
            top = linear(x - b_dec, W_enc, b_enc).topk(sizes.k, sorted=False)
        values = top.values.float().relu()
        x_hat = embedding_bag(top.indices, W_dec, per_sample_weights=values, mode="sum") + b_dec
        optimizer.zero_grad()
        torch.autograd.backward(mse_loss(x_hat, x))
        optimizer.step()  # pyright: ignore[reportUnknownMemberType] - its closure is untyped

    return step


def _sparsify(device: Device, sizes: Sizes, precision: str) -> Step:
    """The body of its training loop with Adam; it has no public function for one step."""
    coder, config = _imported("sparsify.sparse_coder"), _imported("sparsify.config")
    sae = coder.SparseCoder(
        sizes.width,
        config.SparseCoderConfig(num_latents=sizes.latents, k=sizes.k),
        device=device.kind,
    )
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-4, fused=True)

    def step(x: Tensor) -> None:
        sae.set_decoder_norm_to_unit_norm()
        with _autocast(device, precision):
            loss = sae(x).fvu
        loss.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()  # pyright: ignore[reportUnknownMemberType] - its closure is untyped
        optimizer.zero_grad()

    return step


def _saelens(device: Device, sizes: Sizes, precision: str) -> Step:
    topk, trainers = _imported("sae_lens.saes.topk_sae"), _imported("sae_lens.training.sae_trainer")
    config = _imported("sae_lens.config")
    sae = topk.TopKTrainingSAE(
        topk.TopKTrainingSAEConfig(
            d_in=sizes.width, d_sae=sizes.latents, k=sizes.k, device=device.kind
        )
    )
    settings = config.SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=sizes.rows,
        lr=1e-4,
        lr_end=1e-4,
        device=device.kind,
        autocast=precision == "bfloat16",
    )
    trainer = trainers.SAETrainer(settings, sae, data_provider=iter(()))
    return lambda x: trainer._train_step(sae, x)


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise NotThere(f"{name.partition('.')[0]}: {error}") from None


_PEERS: dict[str, Callable[[Device, Sizes, str], Step]] = {
    _OURS: _ours,
    "plain PyTorch, dense": _dense,
    "plain PyTorch, embedding_bag": _sparse,
    "sparsify": _sparsify,
    "SAELens": _saelens,
}
