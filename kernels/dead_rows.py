"""Rows of the dead latents, gathered from the weights and put back as gradients, on a GPU.

One kernel gathers them from both matrices and the bias, and notes the place of each dead latent
among them; one writes the gradients of all latents: those of the dead ones, and 0 elsewhere.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .dispatch import Pointer, Scalar, constexpr, jit, launch, tl
from .numerics import next_power_of_2

_COLUMNS_AT_ONCE = 4096


@jit
def _copy_row(
    source_ptr: Pointer,  # [D]
    target_ptr: Pointer,  # [D] (out)
    D: Scalar,
    exists: Scalar,  # else zeros are written
    BLOCK_D: constexpr,
) -> None:
    for start in range(0, D, BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        row = tl.load(source_ptr + columns, mask=(columns < D) & exists, other=0.0)
        tl.store(target_ptr + columns, row, mask=columns < D)


@jit
def _gather_kernel(
    dead_ptr: Pointer,  # [N]
    W_enc_ptr: Pointer,  # [F, D]
    W_dec_ptr: Pointer,  # [F, D]
    b_enc_ptr: Pointer,  # [F]
    rows_enc_ptr: Pointer,  # [N, D] (out)
    rows_dec_ptr: Pointer,  # [N, D] (out)
    biases_ptr: Pointer,  # [N] (out)
    places_ptr: Pointer,  # [F] (in and out) -1 first
    D: Scalar,
    BLOCK_D: constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64)
    latent = tl.load(dead_ptr + at)
    _copy_row(W_enc_ptr + latent * D, rows_enc_ptr + at * D, D, latent >= 0, BLOCK_D)
    _copy_row(W_dec_ptr + latent * D, rows_dec_ptr + at * D, D, latent >= 0, BLOCK_D)
    tl.store(biases_ptr + at, tl.load(b_enc_ptr + latent))
    tl.store(places_ptr + latent, tl.program_id(0))


@jit
def _put_back_kernel(
    places_ptr: Pointer,  # [F] where the latent's row is, -1 where there is none
    rows_enc_ptr: Pointer,  # [N, D]
    rows_dec_ptr: Pointer,  # [N, D]
    biases_ptr: Pointer,  # [N]
    W_enc_ptr: Pointer,  # [F, D] (out)
    W_dec_ptr: Pointer,  # [F, D] (out)
    b_enc_ptr: Pointer,  # [F] (out)
    D: Scalar,
    BLOCK_D: constexpr,
) -> None:
    latent = tl.program_id(0).to(tl.int64)
    at = tl.load(places_ptr + latent).to(tl.int64)
    is_dead = at >= 0
    _copy_row(rows_enc_ptr + at * D, W_enc_ptr + latent * D, D, is_dead, BLOCK_D)
    _copy_row(rows_dec_ptr + at * D, W_dec_ptr + latent * D, D, is_dead, BLOCK_D)
    tl.store(b_enc_ptr + latent, tl.load(biases_ptr + at, mask=is_dead, other=0.0))


class DeadRows(NamedTuple):
    """What belongs to the dead latents alone, or gradients of all latents."""

    W_enc: Float[Tensor, "N D"]
    b_enc: Float[Tensor, "N"]
    W_dec: Float[Tensor, "N D"]


def launch_gather(whole: DeadRows, dead: Int[Tensor, "N"]) -> tuple[DeadRows, Int[Tensor, "F"]]:
    """The rows of the dead latents, of weights of all latents, and for each latent the place of its
    row, -1 where it has none.

    dead: [N] int64, none twice.
    """
    places = dead.new_full((len(whole.b_enc),), -1, dtype=torch.int32)
    D = whole.W_enc.shape[1]
    found = DeadRows(*(each.new_empty(len(dead), *each.shape[1:]) for each in whole))
    launch(
        _gather_kernel,
        (len(dead),),
        dead_ptr=dead,
        W_enc_ptr=whole.W_enc.contiguous(),
        W_dec_ptr=whole.W_dec.contiguous(),
        b_enc_ptr=whole.b_enc.contiguous(),
        rows_enc_ptr=found.W_enc,
        rows_dec_ptr=found.W_dec,
        biases_ptr=found.b_enc,
        places_ptr=places,
        D=D,
        BLOCK_D=min(_COLUMNS_AT_ONCE, next_power_of_2(D)),
        num_warps=4,
    )
    return found, places


def launch_put_back(rows: DeadRows, places: Int[Tensor, "F"]) -> DeadRows:
    """Gradients of all latents from those of the dead ones, 0 elsewhere, each in memory of its own,
    to which autograd then adds others in place."""
    n_latents = len(places)
    D = rows.W_enc.shape[1]
    whole = DeadRows(*(each.new_empty(n_latents, *each.shape[1:]) for each in rows))
    launch(
        _put_back_kernel,
        (n_latents,),
        places_ptr=places,
        rows_enc_ptr=rows.W_enc.contiguous(),
        rows_dec_ptr=rows.W_dec.contiguous(),
        biases_ptr=rows.b_enc.contiguous(),
        W_enc_ptr=whole.W_enc,
        W_dec_ptr=whole.W_dec,
        b_enc_ptr=whole.b_enc,
        D=D,
        BLOCK_D=min(_COLUMNS_AT_ONCE, next_power_of_2(D)),
        num_warps=4,
    )
    return whole
