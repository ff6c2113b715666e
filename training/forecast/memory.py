"""The bytes that training takes, by what they are for: counted from the sizes, not measured."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from ...kernels.numerics import ceil_div
from ...kernels.policy import (
    Backend,
    dense_rows,
    encode_plan,
    pre_activation_rows,
    product_plan,
    sparse_plan,
)
from ...kernels.tiles import tile
from ...sae.config import SAEConfig
from ..config import TrainerConfig

_FLOAT, _INDEX = 4, 8
_ROWS_IN_ENCODING, _ROWS_IN_UPDATE = 3, 5
"""Tensors of a batch's rows that are there at once in these parts of a step."""
_VALUES_IN_CACHE = 1 << 20
"""Of the weights, which Adam moves at once on a CPU (`kernels.optimizer`)."""
_SLOT_BYTES = 40
"""Of a kept value: its latent, the value, its gradient, and their order by latent."""


class StepSizes(NamedTuple):
    """What the memory of a step depends on."""

    sae: SAEConfig
    trainer: TrainerConfig
    precision: str
    """float32, tf32 or bfloat16."""
    backend: Backend
    """Where the step runs; `dtype` is that of its products."""

    @property
    def n_latents(self) -> int:
        """Of one process."""
        return self.sae.n_latents // self.trainer.shards

    @property
    def n_parameters(self) -> int:
        """Of one process: two matrices, two biases, and of jumprelu the thresholds."""
        width, n = self.sae.d_model, self.n_latents
        own = n if self.sae.activation == "jumprelu" else 0
        return 2 * n * width + n + width + own

    @property
    def slots_per_row(self) -> int:
        """Latents of a row; those that jumprelu aims at, and where a row chooses a guess."""
        if self.sae.latents_of_row is not None:
            return max(self.sae.latents_of_row, self.trainer.k_start or 0)
        return min(
            self.trainer.target_l0 if self.sae.activation == "jumprelu" else 256, self.n_latents
        )


def state_bytes(sizes: StepSizes) -> dict[str, int]:
    """What is there between steps, which a checkpoint holds, too."""
    n = sizes.n_parameters
    found = {"parameters": _FLOAT * n, "moments": 2 * _FLOAT * n}
    found["counters"] = _INDEX * sizes.n_latents
    if sizes.trainer.ema_decay is not None:
        found["averages"] = _FLOAT * n
    return found


def memory_bytes(sizes: StepSizes, window_bytes: int) -> dict[str, int]:
    """The most that is there at once on the device that trains, PyTorch's own memory beside it.

    `auxk` is for a tenth of the latents dead; more of them take more.

    Args:
        window_bytes: of stored rows that are shuffled together; two such windows are there.
    """
    found = state_bytes(sizes)
    n = sizes.n_parameters
    if sizes.precision == "bfloat16":
        found["rounded_weights"] = 2 * n
    # The pre-activations are gone when there are gradients, so they may have the same memory.
    found["gradients"] = _FLOAT * n
    encoding, updating = _encoding_bytes(sizes) - found["gradients"], _update_bytes(sizes)
    found["step"] = max(encoding, updating)
    found["auxk"] = max(0, updating + _auxk_bytes(sizes) - found["step"])
    if sizes.trainer.ema_decay is not None:
        found["averages_measured"] = _FLOAT * n
    found["windows"] = 2 * window_bytes
    found["batches"] = 2 * _rows_bytes(sizes)
    return found


def checkpoint_bytes(sizes: StepSizes) -> int:
    """One checkpoint on disk: the state of all processes."""
    return sizes.trainer.shards * sum(state_bytes(sizes).values())


def total(parts: Mapping[str, int]) -> int:
    """The parts together."""
    return sum(parts.values())


def _rows_bytes(sizes: StepSizes) -> int:
    return _FLOAT * sizes.trainer.batch_size * sizes.sae.d_model


def _encoding_bytes(sizes: StepSizes) -> int:
    """While the encoder's pre-activations are there."""
    backend, width, n_latents = sizes.backend, sizes.sae.d_model, sizes.n_latents
    n_rows, item = sizes.trainer.batch_size, sizes.backend.dtype.itemsize
    rows = _ROWS_IN_ENCODING * _rows_bytes(sizes)
    k = min(sizes.slots_per_row, n_latents)
    slots = n_rows * k * (_INDEX + _FLOAT)
    path = encode_plan(n_rows, width, n_latents, k, backend).path
    if sizes.sae.activation != "topk":
        path = "blocks"
    if path == "fused":
        sizes_of_tile = tile("encode_topk", backend.gpu, D=width, F=n_latents, K=k)
        n_keys = ceil_div(n_latents, sizes_of_tile["GROUP"]) * sizes_of_tile["KEPT"]
        return rows + slots + n_rows * n_keys * _FLOAT
    product = product_plan(n_rows, n_latents * width, backend)
    at_once = min(n_rows, pre_activation_rows(n_latents, product, backend))
    block = at_once * n_latents * item
    if path == "screened":  # rounded weights, their scores, and exact ones for the rows that fail
        return rows + slots + 2 * n_latents * width + 2 * block
    if product.path == "onednn":
        # Its own layout of the weights, and each result in two layouts while the last one is there.
        n_blocks = 2 if at_once == n_rows else 3
        return rows + slots + _FLOAT * n_latents * width + n_blocks * block
    # A selection looks at the largest of groups; of low precision on a CPU it makes a copy first.
    more = block if backend.on_cpu and item < _FLOAT else block // 4
    return rows + slots + block + more


def _update_bytes(sizes: StepSizes) -> int:
    """Beside the gradients, while weights are moved or gradients summed."""
    n_latents, n_weights = sizes.n_latents, sizes.n_latents * sizes.sae.d_model
    slots = sizes.trainer.batch_size * sizes.slots_per_row * _SLOT_BYTES
    found = _ROWS_IN_UPDATE * _rows_bytes(sizes) + slots
    if sizes.backend.on_cpu:
        found += _FLOAT * min(n_weights, _VALUES_IN_CACHE)
    if sparse_plan(n_latents, sizes.slots_per_row, sizes.backend).path == "dense":
        rows = min(sizes.trainer.batch_size, dense_rows(n_latents, sizes.backend))
        found += 3 * rows * n_latents * _FLOAT
    return found


def _auxk_bytes(sizes: StepSizes) -> int:
    """AuxK of a tenth of the latents: their rows of both matrices with gradients, those of the
    whole matrices beside the others, and the codes."""
    if not sizes.trainer.auxk_coefficient:
        return 0
    width, n_dead = sizes.sae.d_model, sizes.n_latents // 10
    k_aux = min(sizes.trainer.k_aux or max(1, width // 2), n_dead)
    rows = 4 * _FLOAT * n_dead * width + _FLOAT * sizes.n_latents * width
    codes = sizes.trainer.batch_size * k_aux * _SLOT_BYTES
    return rows + codes + 2 * _rows_bytes(sizes)


def gpu_backend(architecture: int, precision: str) -> Backend:
    """The backend of a step on a GPU of the architecture."""
    return Backend(
        dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
        on_cpu=False,
        triton=True,
        gpu=architecture,
        tf32=precision == "tf32",
    )
