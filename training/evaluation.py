"""Evaluation on held-out text: reconstruction, sparsity, and the model's loss with the SAE in."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..sae.autoencoder import SparseAutoencoder
from ..sae.devices import resolve_device
from ..sae.errors import InputError
from ..sae.language_model import LanguageModel
from ..sae.site import Site
from .cache import ActivationCache
from .config import EvalConfig
from .fit import measure_rows
from .threads import use_free_cores

_CONTEXTS_AT_ONCE = 4
_DENSITY_EDGES = [-6.0 + 0.25 * step for step in range(25)]
"""log10 of the firing rate, from one row in a million to every row."""


def evaluate(
    config: EvalConfig, *, say: Callable[[str], None] = lambda sentence: None
) -> dict[str, Any]:
    """Measure the autoencoder on the cache's held-out part.

    Returns:
        The measures of `ReconstructionMetrics.result`; `density_histogram` with `log10_edges`,
        `latents` in each bin and `dead`; and `language_model`: mean next-token losses in nats
        (`loss`, `loss_spliced`, `loss_zero_ablated`, `loss_mean_ablated`), `loss_recovered` =
        (zero_ablated - spliced) / (zero_ablated - loss), the same against the mean ablation, and
        the contexts and tokens they rest on. None there where `contexts` is 0.

    Raises:
        InputError: autoencoder, cache and language model do not belong together.
    """
    use_free_cores()
    device = resolve_device(config.device)
    sae = SparseAutoencoder.load(config.sae).to(device)
    cache = ActivationCache(config.cache)
    site = _fitting_site(sae, cache, config)
    measures = measure_rows(sae, cache.held_out(site=site, limit=config.rows))
    result: dict[str, Any] = {
        "sae": config.sae,
        "cache": config.cache,
        "site": site,
        **sae.description(),
        **measures.result(),
        "density_histogram": density_histogram(measures.firing_rates()),
        "language_model": None,
    }
    if config.contexts:
        say(f"splicing into {config.model or cache.manifest.model}")
        model = LanguageModel.load(config.model or cache.manifest.model, device=str(device))
        _require_same_weights(model, cache, config)
        mean_D = cache.held_out(site=site, limit=config.rows).mean(0).to(device)
        tokens, mask = cache.held_out_contexts(config.contexts)
        losses = spliced_losses(sae, model.site(site), tokens, mask, mean_D)
        result["language_model"] = losses
        result["loss_recovered"] = losses["loss_recovered"]
    return result


def density_histogram(rates_F: Float[Tensor, "F"]) -> dict[str, Any]:
    """Latents by log10 of their firing rate; those that never fired are counted as dead."""
    alive = rates_F[rates_F > 0]
    edges = torch.tensor(_DENSITY_EDGES, dtype=torch.float64)
    bins = torch.bucketize(alive.log10(), edges[1:-1], right=True)
    counts = torch.bincount(bins, minlength=len(edges) - 1)
    return {
        "log10_edges": _DENSITY_EDGES,
        "latents": [int(count) for count in counts],
        "dead": int((rates_F == 0).sum()),
    }


def spliced_losses(
    sae: SparseAutoencoder,
    site: Site,
    tokens_CL: Int[Tensor, "C L"],
    mask_CL: Bool[Tensor, "C L"],
    mean_D: Float[Tensor, "D"],
) -> dict[str, float | int]:
    """Mean next-token loss with the site untouched, reconstructed, zeroed, and set to the mean.

    Positions that were left out of the cache (BOS and the first token) keep their activation, for
    the autoencoder never saw such ones.
    """
    edits: dict[str, Callable[[Tensor], Tensor] | None] = {
        "loss": None,
        "loss_spliced": sae,
        "loss_zero_ablated": torch.zeros_like,
        "loss_mean_ablated": mean_D.expand_as,
    }
    sums, n_tokens = dict.fromkeys(edits, 0.0), 0
    batches = (torch.split(tensor, _CONTEXTS_AT_ONCE) for tensor in (tokens_CL, mask_CL))
    for tokens_BL, mask_BL in zip(*batches, strict=True):
        replaced_BL1 = rearrange(~site.model.left_out(tokens_BL, mask_BL), "b l -> b l 1")
        counted_BT = mask_BL[:, 1:]
        n_tokens += int(counted_BT.sum())
        for name, edit in edits.items():
            spliced = nullcontext() if edit is None else site.write(Replacement(edit, replaced_BL1))
            with spliced, torch.no_grad():
                losses_BT = site.model.next_token_loss(tokens_BL, mask_BL).cpu()
            sums[name] += float(losses_BT[counted_BT].double().sum())
    means = {name: total / n_tokens for name, total in sums.items()}
    return {
        **means,
        "loss_recovered": _recovered(means, "loss_zero_ablated"),
        "loss_recovered_from_mean": _recovered(means, "loss_mean_ablated"),
        "contexts": len(tokens_CL),
        "tokens": n_tokens,
    }


@dataclass(frozen=True)
class Replacement:
    """An edit of a site that replaces the activations at chosen positions, [B, L, 1]."""

    edit: Callable[[Tensor], Tensor]
    positions: Bool[Tensor, "B L 1"]

    def __call__(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return torch.where(self.positions.to(h_BLD.device), self.edit(h_BLD).to(h_BLD), h_BLD)


def _recovered(means: dict[str, float], reference: str) -> float:
    """Share of the loss that the ablation costs which the autoencoder keeps."""
    return (means[reference] - means["loss_spliced"]) / (means[reference] - means["loss"])


def _fitting_site(sae: SparseAutoencoder, cache: ActivationCache, config: EvalConfig) -> str:
    wanted = config.site
    if wanted is None and sae.origin is not None and sae.origin.site in cache.sites:
        wanted = sae.origin.site
    site = cache.site_name(wanted)
    if sae.config.d_model != cache.d_model:
        raise InputError(
            f"{config.sae} reads activations of width {sae.config.d_model}, but {config.cache} "
            f"holds width {cache.d_model}; give the cache of the model it was trained on"
        )
    return site


def _require_same_weights(model: LanguageModel, cache: ActivationCache, config: EvalConfig) -> None:
    if model.weights_hash != cache.manifest.weights_hash:
        raise InputError(
            f"{model.name} has other weights than the model that {config.cache} was made with; "
            "give --model with the right one, or --contexts 0 to leave the model out"
        )
