"""Monosemanticity without a judge: what the token explains of latents, and how alike the texts are
in which they fire."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....sae.autoencoder import SparseAutoencoder
from ....sae.language_model.model import LanguageModel
from ...data.cache.held_out_rows import HeldOutRows, held_out_rows
from ...data.cache.reader import ActivationCache
from .example_agreement import agreement
from .latent_sample import LatentSample, sample_latents, strongest_rows
from .meaning_config import MeaningSettings
from .summaries import summary
from .token_explained import share_of_one_token, token_explained
from .window_embeddings import window_embeddings

_LEAST_EXAMPLES = 3
_DETECTOR = 0.9
"""Above which R^2 a latent is counted as a token detector."""


def meaning(
    saes: Sequence[SparseAutoencoder],
    cache: ActivationCache,
    model: LanguageModel | None,
    settings: MeaningSettings,
    *,
    site: str | None = None,
    seed: int = 0,
    progress: Callable[[int], None] = lambda tokens: None,
) -> list[dict[str, Any]]:
    """Measure a random sample of the latents of autoencoders of one site on held-out text.

    The language model runs once for all of them. What the figures do not say: a latent can be
    explained by its token and have a clear meaning, and examples can be alike in topic, layout or
    language alone, which the embedding sees better than a grammatical role or a step of an
    algorithm. They compare dictionaries; they are no probability that a person understands a
    latent.

    Args:
        saes: the autoencoders, on the device where they encode.
        cache: its held-out contexts are read.
        model: the language model of the cache; None leaves out the agreement of examples.
        settings: how much is looked at.
        site: of the cache; by default its only one.
        seed: of every draw.
        progress: told the tokens of each forward pass and the rows of each encoding.

    Returns:
        For each autoencoder `latents` measured of `latents_drawn`, of which `latents_fired`; `rows`
        and `documents`; and, each as `summary` gives it over the latents, intervals too,
        - `token_explained`: R^2 by the token, see `token_explained`, and `token_detectors`, the
          part of the latents above 0.9;
        - `share_of_one_token`: the part of the activation in the top examples that is on their
          commonest token;
        - `agreement`, None without a model: for `top` examples, and for those drawn in proportion
          to the activation (`weighted`), `beyond_token` and `in_all`, see `agreement`; 1/2 is
          chance. `latents` says how many had three documents, rarer ones being left out;
          `embedding_site` by what.

    Raises:
        InputError: the cache has no held-out text, or the model no such site.
    """
    rows = held_out_rows(
        cache, contexts=settings.contexts, site=site, outlier_norm=settings.outlier_norm
    )
    embedding_site, embeddings_NH = None, None
    if model is not None:
        embedding_site = settings.embedding_site or default_embedding_site(model)
        embeddings_NH = window_embeddings(
            model,
            embedding_site,
            rows,
            before=settings.before,
            after=settings.after,
            seed=seed,
            progress=progress,
        )
    results: list[dict[str, Any]] = []
    for sae in saes:
        sample = sample_latents(sae, rows, settings.latents, seed=seed, progress=progress)
        result = _of_tokens(sample, rows, settings, seed)
        result["agreement"] = None
        if embeddings_NH is not None:
            found = _of_texts(sample, rows, embeddings_NH, settings, seed)
            result["agreement"] = {**found, "embedding_site": embedding_site}
        results.append(result)
    return results


def default_embedding_site(model: LanguageModel) -> str:
    """The residual stream after three quarters of the layers."""
    return f"blocks.{3 * (model.n_layers - 1) // 4}.hook_resid_post"


def _of_tokens(
    sample: LatentSample, rows: HeldOutRows, settings: MeaningSettings, seed: int
) -> dict[str, Any]:
    tokens_N = rows.tokens
    explained_S = token_explained(sample, tokens_N, rows.document, rows.kept, seed=seed)
    shares_S = share_of_one_token(sample, tokens_N, rows.document, settings.examples)
    known_S = explained_S[~explained_S.isnan()]
    return {
        "latents": len(sample.latents),
        "latents_drawn": sample.n_drawn,
        "latents_fired": sample.n_alive,
        "rows": int(rows.kept.sum()),
        "documents": len(np.unique(rows.document[rows.kept].numpy())),
        "token_explained": summary(explained_S),
        "token_detectors": float((known_S > _DETECTOR).double().mean()) if len(known_S) else None,
        "share_of_one_token": summary(shares_S),
    }


def _of_texts(
    sample: LatentSample,
    rows: HeldOutRows,
    embeddings_NH: Float[Tensor, "N H"],
    settings: MeaningSettings,
    seed: int,
) -> dict[str, Any]:
    usable_N = rows.kept & embeddings_NH.any(-1)
    kinds: dict[str, list[Tensor]] = {"top": [], "weighted": []}
    generator = torch.Generator().manual_seed(seed)
    for place in range(len(sample.latents)):
        rows_M, values_M = sample.of(place)
        usable_M = usable_N[rows_M]
        rows_M, values_M = rows_M[usable_M], values_M[usable_M]
        # The largest of these keys are a sample without replacement, with chances in proportion to
        # the activation (Efraimidis and Spirakis, 2006).
        uniform_M = torch.rand(len(values_M), generator=generator, dtype=torch.float64)
        keys_M = uniform_M.clamp(min=1e-300).log() / values_M.double()
        for kind, scores_M in (("top", values_M.double()), ("weighted", keys_M)):
            chosen = strongest_rows(rows_M, scores_M, rows.document, settings.examples)
            kinds[kind].append(rows_M[chosen])
    enough = [len(rows_P) >= _LEAST_EXAMPLES for rows_P in kinds["top"]]
    found: dict[str, Any] = {"latents": sum(enough)}
    for kind, examples in kinds.items():
        compared = [rows_P for rows_P, is_enough in zip(examples, enough, strict=True) if is_enough]
        measured = agreement(
            compared, embeddings_NH, rows.tokens, rows.document, usable_N, seed=seed
        )
        found[kind] = {
            "beyond_token": summary(measured.beyond_token),
            "in_all": summary(measured.in_all),
        }
    return found
