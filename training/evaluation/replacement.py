"""A language model with its site replaced: next-token loss, and how far the predictions move."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...kernels.numerics import at_least_float32
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site

_CONTEXTS_AT_ONCE = 4
_LOGITS_AT_ONCE = 1 << 23
"""Logits held at once for one edit: 32 MB in float32."""

Edit = Callable[[Tensor], Tensor]


class Replacement(NamedTuple):
    """A site, and what its activations become."""

    site: Site
    edit: Edit
    reads: Site | None = None
    """Whose activations are edited: a site that the model comes by earlier; None: the site's own.
    Such an edit makes the activation of one site from that of another."""


class ContextSums(NamedTuple):
    """Sums over the predicted tokens of each context, in nats, float64."""

    loss_C: Float[Tensor, "C"]
    """Next-token cross entropy."""
    kl_C: Float[Tensor, "C"]
    """KL divergence from the untouched model's predictions to these."""


@dataclass(frozen=True)
class _AtPositions:
    """An edit of a site that replaces the activations at chosen positions, [B, L, 1]."""

    edit: Edit
    positions: Bool[Tensor, "B L 1"]

    def __call__(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return torch.where(self.positions.to(h_BLD.device), self.edit(h_BLD).to(h_BLD), h_BLD)


def replacement_sums(
    model: LanguageModel,
    replacements: Sequence[Replacement],
    tokens_CL: Int[Tensor, "C L"],
    mask_CL: Bool[Tensor, "C L"],
    progress: Callable[[int], None] = lambda tokens: None,
) -> tuple[list[ContextSums], Int[Tensor, "C"]]:
    """Loss and KL of the untouched model and with each replacement, and how many tokens of each
    context they are sums over.

    The untouched model runs once for all replacements. Positions that were left out of the cache
    (BOS and the first token) keep their activation, for no autoencoder ever saw such ones.

    Args:
        model: the language model.  replacements: what to replace; the untouched model comes before
            them.
        tokens_CL, mask_CL: contexts, and where they have text.
        progress: told the tokens of each forward pass, padding included.

    Raises:
        InputError: the model comes by a site before the one that is read for it.
    """
    sums: list[Tensor] = []
    batches = (torch.split(tensor, _CONTEXTS_AT_ONCE) for tensor in (tokens_CL, mask_CL))
    for tokens_BL, mask_BL in zip(*batches, strict=True):
        replaced_BL1 = rearrange(~model.excluded_tokens(tokens_BL, mask_BL), "b l -> b l 1")
        counted_BT = mask_BL[:, 1:]
        hidden: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = []
        for replacement in (None, *replacements):
            replaced = nullcontext() if replacement is None else _written(replacement, replaced_BL1)
            with replaced, torch.no_grad():
                hidden_BLD, head = model.before_head(tokens_BL, mask_BL)
            hidden.append((hidden_BLD[:, :-1][counted_BT.to(hidden_BLD.device)], head))
            progress(tokens_BL.numel())
        targets_N = tokens_BL[:, 1:][counted_BT].long()
        sums.append(_sums(hidden, targets_N, counted_BT, model.network.n_vocab))
    return [ContextSums(*sums_2C) for sums_2C in torch.cat(sums, dim=-1)], mask_CL[:, 1:].sum(-1)


@contextmanager
def _written(replacement: Replacement, positions: Bool[Tensor, "B L 1"]) -> Generator[None]:
    """Within the context, one forward pass has the replacement at the positions."""
    site, edit, reads = replacement
    if reads is None:
        with site.write(_AtPositions(edit, positions)):
            yield
        return
    found: list[Tensor] = []

    def keep(acts_BLD: Tensor) -> None:
        found.append(acts_BLD)

    def edited(_: Tensor) -> Tensor:
        if not found:
            raise InputError(
                f"{site.name} comes before {reads.name} in the model, so that nothing made of the "
                "latter can be put there; give --contexts 0 to leave the model out"
            )
        return edit(found[0])

    reading = reads.model.network.hooked(reads.name, keep)
    with reading, site.write(_AtPositions(edited, positions)):
        yield


@torch.no_grad()
def _sums(
    hidden: Sequence[tuple[Float[Tensor, "N H"], Callable[[Tensor], Tensor]]],
    targets_N: Int[Tensor, "N"],
    counted_BT: Bool[Tensor, "B T"],
    d_vocab: int,
) -> Float[Tensor, "S 2 B"]:
    """Sums of loss and KL over the N positions that count in each context; the first of `hidden` is
    the untouched model's."""
    contexts_N = counted_BT.nonzero()[:, 0]
    sums = torch.zeros(len(hidden), 2, len(counted_BT), dtype=torch.float64)
    at_once = max(1, _LOGITS_AT_ONCE // d_vocab)
    for start in range(0, len(targets_N), at_once):
        part = slice(start, start + at_once)
        clean_NV = None
        for row, (states_NH, head) in enumerate(hidden):
            logits_NV = head(states_NH[part])
            wide = at_least_float32(logits_NV.dtype)
            log_NV = logits_NV.to(wide).log_softmax(-1)
            clean_NV = log_NV if clean_NV is None else clean_NV
            targets_N1 = rearrange(targets_N[part].to(log_NV.device), "n -> n 1")
            loss_N = -log_NV.gather(1, targets_N1)[:, 0]
            kl_N = (clean_NV.exp() * (clean_NV - log_NV)).sum(-1)
            both_2N = torch.stack([loss_N, kl_N]).double().cpu()
            sums[row].index_add_(1, contexts_N[part], both_2N)
    return sums
