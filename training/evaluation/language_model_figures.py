"""What a language model loses with autoencoders in the place of its activations."""

import copy
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.reloading import load_again
from ..data.cache.reader import ActivationCache
from .config import EvalSettings
from .replacement import ContextSums, Replacement, replacement_sums
from .standard_errors import ratio_standard_error
from .subjects import Subject

Progress = Callable[[int, int], None]
"""Told tokens done and tokens in all: those of the rows, and those of each forward pass."""


class TokenProgress:
    """Counts tokens that are done for the user's progress function.

    Attributes:
        total: tokens in all, as far as it is known.
    """

    total = 0

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0

    def add(self, tokens: int) -> None:
        """So many more are done."""
        self._done += tokens
        self._progress(self._done, self.total)


def model_of_cache(
    cache: ActivationCache,
    settings: EvalSettings,
    device: torch.device,
    say: Callable[[str], None] = lambda sentence: None,
    *,
    otherwise: str = ", or --contexts 0 to leave the model out",
) -> LanguageModel:
    """The language model that the cache was made with, or the one that the settings name in its
    place; raises as `load_again`, which takes `otherwise`."""
    return load_again(
        cache.manifest,
        settings.cache,
        given=settings.model,
        device=str(device),
        dtype=settings.model_dtype,
        device_map=settings.device_map,
        allow_other_weights=settings.allow_other_weights,
        say=say,
        otherwise=otherwise,
    )


def language_model_figures(
    subjects: Sequence[Subject],
    cache: ActivationCache,
    settings: EvalSettings,
    rows: dict[str, Tensor],
    tokens: TokenProgress,
    model: LanguageModel,
) -> list[dict[str, float | int | None]]:
    """The figures with each autoencoder in the model, the references of each site that is written
    shared."""
    device = model.device  # of a model that is spread perhaps another one
    replacements: list[Replacement] = []
    written = list(dict.fromkeys(subject.written for subject in subjects))
    for name in written:
        mean_D = rows[name].mean(0).to(device)
        ablations = torch.zeros_like, mean_D.expand_as
        replacements += [Replacement(model.site(name), ablation) for ablation in ablations]
    replacements += [
        Replacement(
            model.site(subject.written),
            _on_device(subject.sae, device),
            reads=model.site(subject.site) if subject.target_site else None,
        )
        for subject in subjects
    ]
    tokens_CL, mask_CL = cache.held_out_contexts(settings.contexts)
    tokens.total += (len(replacements) + 1) * tokens_CL.numel()
    (clean, *sums), tokens_C = replacement_sums(model, replacements, tokens_CL, mask_CL, tokens.add)
    references = {name: sums[2 * i : 2 * i + 2] for i, name in enumerate(written)}
    counts = {"contexts": len(tokens_CL), "tokens": int(tokens_C.sum())}
    return [
        _figures(tokens_C, clean, with_sae, *references[subject.written]) | counts
        for subject, with_sae in zip(subjects, sums[2 * len(references) :], strict=True)
    ]


def _on_device(sae: SparseAutoencoder, device: torch.device) -> SparseAutoencoder:
    """The autoencoder, or a copy where it is on another device."""
    return sae if sae.W_dec.device == device else copy.deepcopy(sae).to(device)


def _figures(
    tokens_C: Int[Tensor, "C"],
    clean: ContextSums,
    with_sae: ContextSums,
    zero: ContextSums,
    mean: ContextSums,
) -> dict[str, float | int | None]:
    """Every figure is a ratio of sums over contexts, which gives its standard error, too."""
    ratios = {
        "loss": (clean.loss_C, tokens_C),
        "loss_with_sae": (with_sae.loss_C, tokens_C),
        "loss_zero_ablated": (zero.loss_C, tokens_C),
        "loss_mean_ablated": (mean.loss_C, tokens_C),
        "loss_recovered": _recovered(clean.loss_C, with_sae.loss_C, zero.loss_C),
        "loss_recovered_from_mean": _recovered(clean.loss_C, with_sae.loss_C, mean.loss_C),
        "kl_with_sae": (with_sae.kl_C, tokens_C),
        "kl_zero_ablated": (zero.kl_C, tokens_C),
        "kl_mean_ablated": (mean.kl_C, tokens_C),
        "kl_recovered": _recovered(clean.kl_C, with_sae.kl_C, zero.kl_C),
        "kl_recovered_from_mean": _recovered(clean.kl_C, with_sae.kl_C, mean.kl_C),
    }
    figures: dict[str, float | None] = {}
    for name, ratio in ratios.items():
        figures[name] = None if ratio is None else float(ratio[0].sum()) / float(ratio[1].sum())
        figures[f"{name}_standard_error"] = None if ratio is None else ratio_standard_error(*ratio)
    return figures


def _recovered(
    clean_C: Float[Tensor, "C"], with_sae_C: Float[Tensor, "C"], ablated_C: Float[Tensor, "C"]
) -> tuple[Tensor, Tensor] | None:
    """The fraction of what ablation costs that the autoencoder saves, as numerators and
    denominators; None if it costs nothing."""
    saved_C, cost_C = ablated_C - with_sae_C, ablated_C - clean_C
    return (saved_C, cost_C) if cost_C.sum() > 0 else None
