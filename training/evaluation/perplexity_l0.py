"""How many latents of a row a language model needs: the perplexity that fewer cost it.

After PPL-p% sparsity (arXiv 2411.02335), of an autoencoder in place of a feed-forward layer: of
each row the latents stay whose contribution, the norm of activation times decoder row, reaches a
threshold. It rises until the model's perplexity, with what is left in place of the activation, is
1 + p of what it was. That says what prediction needs, and nothing of how well latents can be read;
an autoencoder trained for that L0 does better than one cut down to it.
"""

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.codes import Codes
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.devices import resolve_device
from ..data.cache.reader import ActivationCache
from .language_model_figures import model_of_cache
from .perplexity_l0_config import PerplexityL0Config
from .replacement import Replacement, replacement_sums
from .standard_errors import ratio_standard_error
from .subjects import opened_subject

_SHARES = (*(0.75**power for power in range(1, 13)), 0.0)
"""Parts of the autoencoder's L0 at which the curve is measured."""
_ROUNDS = 5
"""Halvings of the step of the curve: its factor of 0.75 becomes one of 0.991."""
_ROWS_AT_ONCE = 4096

Losses = Callable[[Sequence[float]], Sequence[float]]
"""Mean next-token loss with the latents that reach each of some thresholds."""


class Found(NamedTuple):
    """A threshold with what it leaves."""

    threshold: float
    l0: float
    loss: float


def perplexity_l0(
    config: PerplexityL0Config,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The L0 down to which an autoencoder can be cut for each rise of perplexity.

    Args:
        config: the autoencoder and the cache whose held-out rows and contexts are read.
        say: sentences for a person.
        progress: told tokens of forward passes done, and in all at most.

    Returns:
        `l0` and `loss_with_sae` of the whole autoencoder, `loss` of the untouched model, in nats;
        `curve`, from many latents to none, each with `l0`, `threshold`, `loss` and `perplexity`,
        the ratio to that with the whole autoencoder; `choices`, for each percent and base (`of`:
        `sae`, the perplexity with the whole autoencoder, or `model`, the untouched model's) `l0`,
        `threshold`, `loss`, `loss_increase_standard_error` over contexts, or `l0` None where even
        the whole autoencoder costs more; `monotone`, whether fewer latents always cost more on the
        curve, without which a choice is but one of several; `contexts` and `tokens`.

    Raises:
        InputError: autoencoder, cache and language model do not belong together.
    """
    device = resolve_device(config.device)
    cache = ActivationCache(config.cache)
    subject = opened_subject(config.sae, cache, config, device, say)
    sizes_N = contributions(subject.sae, cache.held_out(site=subject.site, limit=config.rows))
    n_rows = min(config.rows, cache.n_held_out)
    model = model_of_cache(cache, config, device, say, otherwise="")
    sae = subject.sae
    if sae.W_dec.device != model.device:
        sae = copy.deepcopy(sae).to(model.device)
    tokens_CL, mask_CL = cache.held_out_contexts(config.contexts)
    n_choices = 2 * len(config.percent)
    total = tokens_CL.numel() * (2 + len(_SHARES) + _ROUNDS * (1 + n_choices))
    done = 0
    by_threshold: dict[float, Tensor] = {}
    clean: list[Tensor] = []
    counts: list[Tensor] = []

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        progress(done, total)

    def losses(thresholds: Sequence[float]) -> list[float]:
        new = [t for t in dict.fromkeys(thresholds) if t not in by_threshold]
        if new:
            reads = model.site(subject.site) if subject.target_site else None
            replacements = [
                Replacement(model.site(subject.written), Cut(sae, t), reads=reads) for t in new
            ]
            (untouched, *sums), tokens_C = replacement_sums(
                model, replacements, tokens_CL, mask_CL, advance
            )
            clean[:], counts[:] = [untouched.loss_C], [tokens_C]
            by_threshold.update({t: s.loss_C for t, s in zip(new, sums, strict=True)})
        n_tokens = float(counts[0].sum())
        return [float(by_threshold[t].sum()) / n_tokens for t in thresholds]

    curve = l0_curve(losses, sizes_N, n_rows)
    n_tokens = int(counts[0].sum())
    loss, whole = float(clean[0].sum()) / n_tokens, curve[0]
    bases = [
        (percent, of, base)
        for percent in config.percent
        for of, base in (("sae", whole.loss), ("model", loss))
    ]
    allowed = [base + math.log1p(percent / 100) for percent, _, base in bases]
    chosen = fewest_latents(losses, curve, sizes_N, n_rows, allowed)
    base_C = {"sae": by_threshold[whole.threshold], "model": clean[0]}
    choices = [
        _choice(percent, of, found, by_threshold, base_C[of], counts[0])
        for (percent, of, _), found in zip(bases, chosen, strict=True)
    ]
    return {
        "sae": config.sae,
        "cache": config.cache,
        "site": subject.site,
        "l0": whole.l0,
        "loss": loss,
        "loss_with_sae": whole.loss,
        "curve": [
            _shown(point) | {"perplexity": math.exp(point.loss - whole.loss)} for point in curve
        ],
        "choices": choices,
        "monotone": all(a.loss <= b.loss for a, b in pairwise(curve)),
        "contexts": len(tokens_CL),
        "tokens": n_tokens,
    }


class Cut:
    """An edit of a site: the autoencoder with the latents whose contribution reaches a
    threshold; with 0 all."""

    def __init__(self, sae: SparseAutoencoder, threshold: float) -> None:
        self._sae = sae
        self._threshold = threshold
        self._norms_F = sae.decoder_norms()

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        codes = self._sae.encode(x)
        reaches = codes.values * self._norms_F[codes.indices] >= self._threshold
        kept = Codes(
            codes.indices,
            codes.values * reaches,
            codes.counts,
            row_scale=codes.row_scale,
            row_shift=codes.row_shift,
        )
        return self._sae.reconstruct(x, kept)


@torch.no_grad()
def contributions(sae: SparseAutoencoder, x: Float[Tensor, "N D"]) -> Float[Tensor, "M"]:
    """The norms of activation times decoder row of all latents that are active on rows, falling."""
    found: list[Tensor] = []
    norms_F = sae.decoder_norms()
    for rows in torch.split(x, _ROWS_AT_ONCE):
        codes = sae.encode(rows.to(sae.W_dec.device))
        sizes = codes.values * norms_F[codes.indices]
        found.append(sizes[sizes > 0].double().cpu())
    return torch.cat(found).sort(descending=True).values


def l0_curve(losses: Losses, sizes_N: Float[Tensor, "M"], n_rows: int) -> list[Found]:
    """The whole autoencoder, then fewer and fewer of its latents, at last none.

    Args:
        losses: see `Losses`.
        sizes_N: [M] contributions, falling, of all latents active on so many rows.
    """
    counts = [round(share * len(sizes_N)) for share in _SHARES]
    thresholds = [0.0, *(_threshold(sizes_N, count) for count in counts)]
    found = zip(thresholds, losses(thresholds), strict=True)
    return [Found(threshold, _l0(sizes_N, threshold, n_rows), loss) for threshold, loss in found]


def fewest_latents(
    losses: Losses,
    curve: Sequence[Found],
    sizes_N: Float[Tensor, "M"],
    n_rows: int,
    allowed: Sequence[float],
) -> list[Found | None]:
    """For each loss that is allowed the fewest latents that stay within it.

    The step of the curve at which the loss goes beyond what is allowed, the one with the most
    latents, is halved again and again.

    Returns:
        None where the whole autoencoder is beyond it already; no latents at all where none are
        needed.
    """
    brackets: list[tuple[Found, Found] | None] = []
    for most in allowed:
        beyond = next((i for i, point in enumerate(curve) if point.loss > most), len(curve))
        inside = curve[max(beyond - 1, 0)]
        outside = curve[beyond] if beyond < len(curve) else inside
        brackets.append(None if beyond == 0 else (inside, outside))
    for _ in range(_ROUNDS):
        open_ones = {i: b for i, b in enumerate(brackets) if b is not None and b[0] != b[1]}
        middles = {
            i: _threshold(sizes_N, round(n_rows * (inside.l0 + outside.l0) / 2))
            for i, (inside, outside) in open_ones.items()
        }
        if not middles:
            break
        for (i, threshold), loss in zip(
            middles.items(), losses(list(middles.values())), strict=True
        ):
            inside, outside = open_ones[i]
            middle = Found(threshold, _l0(sizes_N, threshold, n_rows), loss)
            brackets[i] = (middle, outside) if loss <= allowed[i] else (inside, middle)
    return [None if bracket is None else bracket[0] for bracket in brackets]


def _threshold(sizes_N: Float[Tensor, "M"], count: int) -> float:
    """The threshold that so many contributions reach, but for ties; above all of them for none."""
    if count >= len(sizes_N):
        return 0.0
    return float(sizes_N[count - 1]) if count else math.inf


def _l0(sizes_N: Float[Tensor, "M"], threshold: float, n_rows: int) -> float:
    return int((sizes_N >= threshold).sum()) / n_rows


def _choice(
    percent: float,
    of: str,
    found: Found | None,
    by_threshold: dict[float, Tensor],
    base_C: Tensor,
    tokens_C: Tensor,
) -> dict[str, Any]:
    if found is None:
        nothing = dict.fromkeys(("l0", "threshold", "loss", "loss_increase_standard_error"))
        return {"percent": percent, "of": of, **nothing}
    increase_C = by_threshold[found.threshold] - base_C
    error = ratio_standard_error(increase_C, tokens_C)
    return {"percent": percent, "of": of, **_shown(found), "loss_increase_standard_error": error}


def _shown(found: Found) -> dict[str, Any]:
    """For JSON, which has no infinity: a threshold above every contribution is None."""
    finite = math.isfinite(found.threshold)
    return found._asdict() | {"threshold": found.threshold if finite else None}
