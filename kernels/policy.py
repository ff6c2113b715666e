"""Which path each operator takes, and why: the one place that chooses between implementations.

A plan is a function of sizes and of a `Backend` (dtype, device, what the machine has), so the same
call takes the same path in every run. Operators ask for their plan at each call and follow it;
`sparsteer doctor` and the kernel benchmark print `typical_plans`. An operator with one Triton and
one PyTorch implementation asks `dispatch.uses_triton` alone.

Two choices depend on data and are made by the code that sees it: `screened_topk` gives up where too
many of its first rows fail verification, and rows that fail take the path `blocks`, or on a GPU
`unverified_rows`.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from . import processor
from .dispatch import architecture, uses_triton
from .numerics import ceil_div
from .tiles import tile

ROWS_OF_A_BLOCK = 512
"""Rows of which a dense [rows, F] block is no burden to a CPU."""
# Larger results of oneDNN come anew from the system each time; PyTorch's go into one buffer.
_ROWS_OF_A_BLOCK_IN_ONEDNN = 256
# A GPU has no cache for a block to stay in: as many pre-activations as fill the chip.
_PRE_ACTIVATIONS_AT_ONCE_ON_GPU = 1 << 27

# Below these, the change of layout costs more than oneDNN gains.
_FEWEST_ROWS_IN_ONEDNN, _FEWEST_WEIGHTS_IN_ONEDNN = 64, 1 << 18

# On a CPU the sparse products touch M rows of D floats where dense ones do F columns of fused
# multiply-adds; dense wins where fewer than this many latents stand for each slot: between 4 and
# 6.5, depending on the width, by benchmarks/bench_sparse_products.py; 7 where oneDNN is faster.
_DENSE_BELOW_LATENTS_PER_SLOT = 5
_DENSE_BELOW_LATENTS_PER_SLOT_IN_ONEDNN = 7
# On a GPU gathers are bound by memory and dense products by tensor cores; computed from an H100's
# 800 TFLOP/s and 3 TB/s, with the rows in its L2 cache, not measured.
_DENSE_BELOW_LATENTS_PER_SLOT_ON_GPU = 145
_LISTED_BELOW = 0.9  # fraction of used slots below which listing them costs less than it saves
_WIDEST_DECODE_MSE = 4096  # columns of a row that one program holds in registers

LONGEST_IN_REGISTERS = 32768
"""Keys of a row that one program holds."""
# By a count of instructions, not measured: beyond this length the maxima of groups cost less than a
# search of the whole row where at most this part of it is then left. How much top-AFA leaves is not
# known before.
_LONGEST_SEARCHED_WHOLE, _MOST_LISTED = 8192, 1 / 4
_LONGEST_TOP_AFA_IN_REGISTERS = 16384

# Screening: below these, rounding the weights or finding the candidates costs too much.
_FEWEST_ROWS_SCREENED, _FEWEST_WEIGHTS_SCREENED = 256, 1 << 20
_FEWEST_LATENTS_PER_KEPT = 48
_LATENTS_FOR_A_GATHERED_PRODUCT = 24
_BYTES_SCREENED_AT_ONCE = 12 << 20
ROWS_TRIED = 128
"""Rows that screening tries first; where too many of them fail, no others are tried."""

# Fused encoder: writing and reading the pre-activations costs 267 / D of the product on an H100
# (computed, not measured); beyond this width that is less than a Triton product loses to cuBLAS.
_WIDEST_FUSED = 4000
_MOST_KEYS_IN_REGISTERS = 32768
_MOST_ROWS_UNVERIFIED = 0.02


class Backend(NamedTuple):
    """What a plan depends on beside the sizes; made at each call, so a tuple, which is quick."""

    dtype: torch.dtype
    """Of the tensors."""
    on_cpu: bool = True
    """Whether they lie on a CPU."""
    triton: bool = False
    """Whether operators on them run Triton kernels (`dispatch.uses_triton`)."""
    gpu: int = 90
    """The GPU's compute capability as one number, which chooses tile shapes."""
    onednn: bool = False
    """Whether oneDNN is the processor's faster library (`processor.onednn_is_faster`)."""
    bfloat16: bool = False
    """Whether the processor multiplies bfloat16 faster (`processor.bfloat16_is_faster`)."""
    tf32: bool = False
    """Whether Triton may round the factors of float32 products to TF32."""


def backend_of(tensor: Tensor) -> Backend:
    """The backend of operators on this tensor, here and now.

    Raises:
        RuntimeError: as `dispatch.uses_triton`.
    """
    triton = uses_triton(tensor)
    return Backend(
        dtype=tensor.dtype,
        on_cpu=tensor.device.type == "cpu",
        triton=triton,
        gpu=architecture(tensor),
        onednn=processor.onednn_is_faster(),
        bfloat16=processor.bfloat16_is_faster(),
        tf32=triton and takes_tf32(),
    )


def takes_tf32() -> bool:
    """Whether float32 products may be rounded to TF32, by whichever of PyTorch's settings."""
    # It tells of the old flag `allow_tf32`, too, which refuses to be read once it has been set.
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


@dataclass(frozen=True)
class Plan:
    """The path of one call."""

    path: str
    """Its name."""
    why: str
    """The reason, as a sentence."""


@dataclass(frozen=True)
class EncodePlan(Plan):
    """How the codes of top-k come from rows.

    `fused`: one Triton kernel multiplies and keeps the largest of every group of columns.
    `screened`: a product in bfloat16 finds candidates, which float32 products decide.
    `blocks`: pre-activations of a block of rows at a time, then a selection.
    """

    path: Literal["fused", "screened", "blocks"]


@dataclass(frozen=True)
class ProductPlan(Plan):
    """Which library multiplies dense matrices, and for how many rows at a time."""

    path: Literal["onednn", "torch"]
    rows_at_once: int


@dataclass(frozen=True)
class TopKPlan(Plan):
    """How the largest entries of a row are found.

    `registers`: Triton bisects a whole row in registers. `listed_groups`: Triton looks only at the
    groups of columns that can hold one. `compiled`: compiled loops bisect it in a CPU's cache.
    `sort`: PyTorch sorts it.
    """

    path: Literal["registers", "listed_groups", "compiled", "sort"]


@dataclass(frozen=True)
class SparsePlan(Plan):
    """How products with sparse codes are taken: decode, weight gradients, gathered dot products.

    `dense`: dense products in blocks of rows. `triton`: Triton kernels over the slots.
    `embedding_bag`: PyTorch's sums of gathered rows.
    """

    path: Literal["dense", "triton", "embedding_bag"]


@dataclass(frozen=True)
class DecodeMSEPlan(Plan):
    """How `decode_mse` gets loss and gradients: in one Triton kernel, in one compiled loop over a
    CPU's rows, or by separate products."""

    path: Literal["one_kernel", "compiled", "separate"]


def encode_plan(n_rows: int, width: int, n_latents: int, k: int, backend: Backend) -> EncodePlan:
    """The path of `encode_topk` for n_rows rows [B, D] and n_latents latents."""
    if backend.triton:
        obstacle = _why_not_fused(width, n_latents, k, backend)
        if obstacle is None:
            why = f"a low-precision product on a GPU, of width {width}, leaves little to store"
            return EncodePlan("fused", why)
        return EncodePlan("blocks", obstacle)
    obstacle = _why_not_screened(n_rows, width, n_latents, k, backend)
    if obstacle is None:
        why = f"the processor ranks {n_latents} latents faster in bfloat16, then verifies each row"
        return EncodePlan("screened", why)
    return EncodePlan("blocks", obstacle)


def _why_not_fused(width: int, n_latents: int, k: int, backend: Backend) -> str | None:
    if width > _WIDEST_FUSED:
        return f"width {width} is above the {_WIDEST_FUSED} up to which the fused kernel pays"
    if backend.dtype == torch.float32 and not backend.tf32:
        return "float32 products may not be rounded to TF32, which the fused kernel does"
    if not 1 <= k <= n_latents:
        return f"k is {k} of {n_latents} latents"
    sizes = tile("encode_topk", backend.gpu, D=width, F=n_latents, K=k)
    n_groups = ceil_div(n_latents, sizes["GROUP"])
    if n_groups * sizes["KEPT"] > _MOST_KEYS_IN_REGISTERS:
        return f"the keys of {n_latents} latents exceed the registers of a program"
    unverified = _expected_unverified(n_groups, sizes["KEPT"], k)
    if unverified > _MOST_ROWS_UNVERIFIED:
        return f"about {unverified:.0%} of the rows would fail verification at k={k}"
    return None


def _expected_unverified(n_groups: int, kept: int, k: int) -> float:
    """Expected fraction of rows with `kept` or more of k latents at random places in one group."""
    rate = k / n_groups
    fewer = sum(math.exp(-rate) * rate**n / math.factorial(n) for n in range(kept))
    return min(1.0, n_groups * (1 - fewer))


def most_candidates(n_latents: int, k: int) -> int:
    """Of how many candidates of a row screening takes float32 products for k latents; a row of more
    is left to the dense product."""
    return max(3 * k, n_latents // _LATENTS_FOR_A_GATHERED_PRODUCT)


def screened_rows(n_latents: int) -> int:
    """For how many rows at a time screening multiplies, so that the result stays in the cache."""
    return max(ROWS_TRIED, _BYTES_SCREENED_AT_ONCE // (2 * n_latents))


def _why_not_screened(
    n_rows: int, width: int, n_latents: int, k: int, backend: Backend
) -> str | None:
    if not (backend.on_cpu and backend.dtype == torch.float32):
        return "only float32 products on a CPU are screened in bfloat16"
    if not backend.bfloat16:
        return "the processor does not multiply bfloat16 faster"
    if not 1 <= k <= n_latents:
        return f"k is {k} of {n_latents} latents"
    if n_rows < _FEWEST_ROWS_SCREENED or n_latents * width < _FEWEST_WEIGHTS_SCREENED:
        return f"{n_rows} rows and {n_latents * width} weights are too few for screening to pay"
    if n_latents < _FEWEST_LATENTS_PER_KEPT * k:
        return f"{n_latents} latents are too few for screening to pay at k={k}"
    return None


def product_plan(
    n_rows: int, n_weights: int, backend: Backend, *, same_dtype: bool = True
) -> ProductPlan:
    """The library of a dense product of n_rows rows with a matrix of n_weights elements.

    same_dtype: whether a bias has the dtype of the matrix.
    """
    if not (backend.on_cpu and backend.dtype == torch.float32 and same_dtype and backend.onednn):
        why = "oneDNN is faster only at float32 on an AMD processor with AVX-512"
        return ProductPlan("torch", why, ROWS_OF_A_BLOCK)
    if n_rows < _FEWEST_ROWS_IN_ONEDNN or n_weights < _FEWEST_WEIGHTS_IN_ONEDNN:
        why = f"{n_rows} rows and {n_weights} weights are too few for oneDNN's layout to pay"
        return ProductPlan("torch", why, ROWS_OF_A_BLOCK)
    why = "oneDNN uses the whole vector width of this processor"
    return ProductPlan("onednn", why, _ROWS_OF_A_BLOCK_IN_ONEDNN)


def pre_activation_rows(n_latents: int, product: ProductPlan, backend: Backend) -> int:
    """For how many rows at a time the encoder's pre-activations are taken."""
    if product.path == "torch":
        return dense_rows(n_latents, backend)
    return product.rows_at_once


def dense_rows(n_latents: int, backend: Backend) -> int:
    """Rows of a dense [rows, F] block outside of oneDNN."""
    if backend.triton:
        return max(ROWS_OF_A_BLOCK, _PRE_ACTIVATIONS_AT_ONCE_ON_GPU // n_latents)
    return ROWS_OF_A_BLOCK


def topk_plan(n_latents: int, n: int, *, triton: bool, on_cpu: bool = True) -> TopKPlan:
    """How the n largest of a row of n_latents entries are found."""
    if triton:
        if n_latents > LONGEST_IN_REGISTERS:
            why = f"{n_latents} entries exceed the {LONGEST_IN_REGISTERS} that fit in registers"
            return TopKPlan("listed_groups", why)
        columns = tile("select_group", 90)["GROUP"]
        if n_latents > _LONGEST_SEARCHED_WHOLE and n * columns <= _MOST_LISTED * n_latents:
            why = f"{n} of {n_latents} entries lie in few groups of {columns} columns"
            return TopKPlan("listed_groups", why)
        return TopKPlan("registers", f"a row of {n_latents} entries fits in registers")
    if not on_cpu:
        return TopKPlan("sort", "PyTorch sorts the rows where Triton's kernels are off")
    return TopKPlan("compiled", "a CPU bisects the keys of a row in its cache")


def top_afa_in_registers(n_latents: int) -> bool:
    """Whether a GPU searches whole rows for top-AFA's threshold."""
    return n_latents <= _LONGEST_TOP_AFA_IN_REGISTERS


def sparse_plan(n_latents: int, slots_per_row: int, backend: Backend) -> SparsePlan:
    """The path of products with codes of which a row uses about slots_per_row slots."""
    least = _DENSE_BELOW_LATENTS_PER_SLOT
    if backend.triton:
        least = _DENSE_BELOW_LATENTS_PER_SLOT_ON_GPU
    elif backend.onednn:
        least = _DENSE_BELOW_LATENTS_PER_SLOT_IN_ONEDNN
    counted = f"{n_latents} latents for {slots_per_row} slots of a row"
    if n_latents < least * slots_per_row:
        return SparsePlan("dense", f"{counted} are fewer than {least} for each")
    return SparsePlan(
        "triton" if backend.triton else "embedding_bag", f"{counted} are at least {least} for each"
    )


def decode_mse_plan(
    n_latents: int, width: int, slots_per_row: int, backend: Backend
) -> DecodeMSEPlan:
    """The path of `decode_mse` for codes of slots_per_row slots and rows of `width` columns."""
    products = sparse_plan(n_latents, slots_per_row, backend)
    wide = backend.dtype in (torch.float32, torch.float64)
    if products.path == "embedding_bag" and backend.on_cpu and wide:
        return DecodeMSEPlan("compiled", "a CPU's cache holds the rows of W_dec that a row uses")
    if products.path != "triton":
        return DecodeMSEPlan("separate", f"products with the codes take {products.path}")
    if width > _WIDEST_DECODE_MSE:
        return DecodeMSEPlan("separate", f"a row of {width} columns does not fit in registers")
    return DecodeMSEPlan("one_kernel", f"a row of {width} columns fits in registers")


def lists_used_slots(n_used: int, n_slots: int) -> bool:
    """Whether sums over the used slots alone save more on a CPU than listing them costs."""
    return n_used < _LISTED_BELOW * n_slots


def typical_plans(
    n_rows: int, width: int, n_latents: int, k: int, backend: Backend
) -> dict[str, Plan]:
    """The plans of a top-k autoencoder's training step at these sizes, by operator."""
    return {
        "encode": encode_plan(n_rows, width, n_latents, k, backend),
        "product": product_plan(n_rows, n_latents * width, backend),
        "topk": topk_plan(n_latents, k, triton=backend.triton, on_cpu=backend.on_cpu),
        "decode": sparse_plan(n_latents, k, backend),
        "decode_mse": decode_mse_plan(n_latents, width, k, backend),
        "backward": sparse_plan(n_latents, k, backend),
    }
