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
    screened_rows,
    sparse_plan,
)
from ...kernels.tiles import tile
from ...sae.config import SAEConfig
from ..target_l0 import aimed_l0
from ..trainer_config import TrainerConfig

_FLOAT, _INDEX = 4, 8
_ROWS_IN_ENCODING, _ROWS_IN_BACKWARD = 3, 5
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
    def n_sites(self) -> int:
        """Sites whose rows a step takes."""
        return 2 if self.sae.transcoder else 1

    @property
    def slots_per_row(self) -> int:
        """Latents of a row; those that training aims at, and where a row chooses a guess."""
        if self.sae.latents_of_row is not None:
            return max(self.sae.latents_of_row, self.trainer.k_start or 0)
        return min(aimed_l0(self.sae, self.trainer.target_l0) or 256, self.n_latents)


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
        window_bytes: of stored rows of a site that are shuffled together; two such windows of each
            site are there.
    """
    found = state_bytes(sizes)
    n = sizes.n_parameters
    if sizes.precision == "bfloat16":
        found["rounded_weights"] = 2 * n
    # The pre-activations are gone when there are gradients, so they may have the same memory.
    found["gradients"] = _FLOAT * n
    encoding, going_back = _encoding_bytes(sizes) - found["gradients"], _backward_bytes(sizes)
    found["step"] = max(encoding, going_back + _adam_bytes(sizes))
    found["auxk"] = max(0, going_back + _auxk_bytes(sizes) - found["step"])
    if sizes.trainer.ema_decay is not None:
        found["averages_measured"] = _FLOAT * n
    found["windows"] = 2 * sizes.n_sites * window_bytes
    found["batches"] = 2 * sizes.n_sites * _rows_bytes(sizes)
    return found


def whole_state_bytes(sizes: StepSizes) -> int:
    """The state of a dictionary in shards, together: every process makes it in main memory at the
    start, and the first one keeps it. 0 where there are no shards."""
    return checkpoint_bytes(sizes) if sizes.trainer.shards > 1 else 0


def checkpoint_bytes(sizes: StepSizes) -> int:
    """One checkpoint on disk: the state of all processes."""
    return sizes.trainer.shards * sum(state_bytes(sizes).values())


def total(parts: Mapping[str, int]) -> int:
    """The parts together."""
    return sum(parts.values())


def _rows_bytes(sizes: StepSizes) -> int:
    return _FLOAT * sizes.trainer.rows_per_step * sizes.sae.d_model


def _encoding_bytes(sizes: StepSizes) -> int:
    """While the encoder's pre-activations are there."""
    backend, width, n_latents = sizes.backend, sizes.sae.d_model, sizes.n_latents
    n_rows, item = sizes.trainer.rows_per_step, sizes.backend.dtype.itemsize
    rows = (_ROWS_IN_ENCODING + sizes.n_sites - 1) * _rows_bytes(sizes)
    k = min(sizes.slots_per_row, n_latents)
    slots = n_rows * k * (_INDEX + _FLOAT)
    path = encode_plan(n_rows, width, n_latents, k, backend).path
    if sizes.sae.activation != "topk":
        path = "blocks"
    if path == "fused":
        sizes_of_tile = tile("encode_topk", backend.gpu, D=width, F=n_latents, K=k)
        n_keys = ceil_div(n_latents, sizes_of_tile["GROUP"]) * sizes_of_tile["KEPT"]
        # The keys are gone when there is the buffer for rows that could not be verified.
        unverified = _rows_at_once(sizes) * n_latents * item
        return rows + slots + max(n_rows * n_keys * _FLOAT, unverified)
    product = product_plan(n_rows, n_latents * width, backend)
    at_once = _rows_at_once(sizes)
    block = at_once * n_latents * item
    if path == "screened":  # all in bfloat16, its products, and exact ones for the rows that fail
        screened = min(n_rows, screened_rows(n_latents)) * n_latents
        return rows + slots + 2 * (n_rows * width + n_latents * width + screened) + block
    if product.path == "onednn":
        # Its own layout of the weights, and each result in two layouts while the last one is there.
        n_blocks = 2 if at_once == n_rows else 3
        return rows + slots + _FLOAT * n_latents * width + n_blocks * block
    # A selection looks at the largest of groups; on a CPU it makes a copy of low precision first.
    copy = _FLOAT * at_once * n_latents if item < _FLOAT else 0
    return rows + slots + block + (copy if backend.on_cpu else block // 4)


def _rows_at_once(sizes: StepSizes) -> int:
    """Rows whose pre-activations are there together."""
    n_rows, backend = sizes.trainer.rows_per_step, sizes.backend
    product = product_plan(n_rows, sizes.n_latents * sizes.sae.d_model, backend)
    return min(n_rows, pre_activation_rows(sizes.n_latents, product, backend))


def _backward_bytes(sizes: StepSizes) -> int:
    """Beside the gradients, while these are summed."""
    n_latents = sizes.n_latents
    slots = sizes.trainer.rows_per_step * sizes.slots_per_row * _SLOT_BYTES
    found = (_ROWS_IN_BACKWARD + sizes.n_sites - 1) * _rows_bytes(sizes) + slots
    if sizes.sae.lista_step:  # of the first reading: codes, rows missed, gradients of both matrices
        found += 2 * _rows_bytes(sizes) + slots + 2 * _FLOAT * n_latents * sizes.sae.d_model
    if sparse_plan(n_latents, sizes.slots_per_row, sizes.backend).path == "dense":
        rows = min(sizes.trainer.rows_per_step, dense_rows(n_latents, sizes.backend))
        found += 3 * rows * n_latents * _FLOAT
    return found


def _adam_bytes(sizes: StepSizes) -> int:
    """While weights are moved, beside what is left of the backward pass."""
    if not sizes.backend.on_cpu:
        return 0
    return _FLOAT * min(sizes.n_latents * sizes.sae.d_model, _VALUES_IN_CACHE)


def _auxk_bytes(sizes: StepSizes) -> int:
    """AuxK of a tenth of the latents, beside a backward pass: their rows of both matrices with
    gradients, gradients of whole matrices, which are added to the others, and activations."""
    if not sizes.trainer.auxk_coefficient:
        return 0
    width, n_dead, backend = sizes.sae.d_model, max(1, sizes.n_latents // 10), sizes.backend
    k_aux = min(sizes.trainer.k_aux or max(1, width // 2), n_dead)
    n_rows, item = sizes.trainer.auxk_rows(sizes.trainer.rows_per_step), backend.dtype.itemsize
    # An autoencoder's others come for both matrices at once, before these are added.
    at_once = not (sizes.sae.transcoder or sizes.sae.prefixes or sizes.sae.lista_step)
    n_whole = 2 if at_once else 1
    found = n_whole * _FLOAT * sizes.n_latents * width
    found += 2 * (item + _FLOAT) * n_dead * width + 2 * _rows_bytes(sizes)
    if backend.triton and sparse_plan(n_dead, k_aux, backend).path == "dense":
        # Activations of all dead latents, their gradients, and these before those of 0 are dropped.
        return found + 3 * n_rows * n_dead * item
    return found + n_rows * k_aux * _SLOT_BYTES


def gpu_backend(architecture: int, precision: str) -> Backend:
    """The backend of a step on a GPU of the architecture."""
    return Backend(
        dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
        on_cpu=False,
        triton=True,
        gpu=architecture,
        tf32=precision == "tf32",
    )
