"""How much of a latent's activation the token under it explains, on documents not used to say so.

A latent that fires on a token whatever stands around it is a token detector: the token alone
predicts it. One that depends on the context is not predicted, however interpretable it looks from
its largest activations.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .latent_sample import LatentSample, strongest_rows

_LATENTS_AT_ONCE = 64


def token_explained(
    sample: LatentSample,
    tokens_N: Int[Tensor, "N"],
    documents_N: Int[Tensor, "N"],
    kept_N: Bool[Tensor, "N"],
    *,
    seed: int,
) -> Float[Tensor, "S"]:
    """R^2 of each latent's activation, predicted from the token of the row, zeros included.

    The documents are parted into two halves at random; the means by token from one half predict the
    other, and the other way round: R^2 = 1 - sum of both squared errors / sum of both squared
    deviations from the mean of the half that predicts. A token seen a few times has a mean that is
    mostly noise, so means are drawn to the overall mean by n / (n + within / between), the best
    linear prediction of a one-way random-effects model, with the two variances estimated by the
    analysis of variance of the predicting half. (`token_explained` of the feature index is another
    estimate of the same: omega squared, without a second half.)

    Args:
        sample: activations of S latents on N rows.
        tokens_N, documents_N: of each row.
        kept_N: which rows count.
        seed: of the halves.

    Returns:
        float64 [S], at most 1; about 0, or a little below, where the token tells nothing; NaN where
        the latent does not vary.
    """
    _, token_of_N = np.unique(tokens_N.numpy(), return_inverse=True)
    names, document_of_N = np.unique(documents_N.numpy(), return_inverse=True)
    half_of_document = np.random.default_rng(seed).permutation(len(names)) % 2
    half_N = torch.as_tensor(half_of_document[document_of_N])
    token_N = torch.as_tensor(token_of_N)
    n_tokens = int(token_N.max()) + 1
    cell_N = half_N * n_tokens + token_N
    counts_2T = torch.bincount(cell_N[kept_N], minlength=2 * n_tokens).double().view(2, -1)
    found: list[Tensor] = []
    for first in range(0, len(sample.latents), _LATENTS_AT_ONCE):
        starts_S = sample.starts[first : first + _LATENTS_AT_ONCE + 1]
        part = slice(int(starts_S[0]), int(starts_S[-1]))
        values_E = sample.values[part].double()
        cell_E = cell_N[sample.rows[part]]
        n_latents = len(starts_S) - 1
        latent_E = torch.repeat_interleave(torch.arange(n_latents), starts_S.diff())
        sums = torch.zeros(n_latents, 2 * n_tokens, dtype=torch.float64)
        sums.index_put_((latent_E, cell_E), values_E, accumulate=True)
        squares_S2 = torch.zeros(n_latents, 2, dtype=torch.float64)
        squares_S2.index_put_((latent_E, cell_E // n_tokens), values_E**2, accumulate=True)
        found.append(_r_squared(sums.view(n_latents, 2, n_tokens), squares_S2, counts_2T))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


def _r_squared(
    sums_S2T: Float[Tensor, "S 2 T"], squares_S2: Float[Tensor, "S 2"], counts_2T: Tensor
) -> Float[Tensor, "S"]:
    error_S, total_S = torch.zeros(2, len(sums_S2T), dtype=torch.float64)
    for fit, test in ((0, 1), (1, 0)):
        mean_S, predicted_ST = _predictions(sums_S2T[:, fit], squares_S2[:, fit], counts_2T[fit])
        sums_ST, counts_T = sums_S2T[:, test], counts_2T[test]
        error_S += squares_S2[:, test] - 2 * (predicted_ST * sums_ST).sum(-1)
        error_S += (counts_T * predicted_ST**2).sum(-1)
        total_S += squares_S2[:, test] - 2 * mean_S * sums_ST.sum(-1) + counts_T.sum() * mean_S**2
    return torch.where(total_S > 0, 1 - error_S.clamp(min=0) / total_S, torch.nan)


def _predictions(
    sums_ST: Float[Tensor, "S T"], squares_S: Float[Tensor, "S"], counts_T: Float[Tensor, "T"]
) -> tuple[Float[Tensor, "S"], Float[Tensor, "S T"]]:
    """The overall mean of each latent, and what it is predicted to be at each token."""
    n_rows, n_tokens = float(counts_T.sum()), int((counts_T > 0).sum())
    mean_S = sums_ST.sum(-1) / max(n_rows, 1)
    mean_S1 = mean_S[:, None]
    means_ST = torch.where(counts_T > 0, sums_ST / counts_T.clamp(min=1), mean_S1)
    between_S = (counts_T * (means_ST - mean_S1) ** 2).sum(-1)
    within_S = (squares_S - n_rows * mean_S**2 - between_S).clamp(min=0) / max(n_rows - n_tokens, 1)
    # The usual token's rows, as the analysis of variance of unequal groups weighs them.
    usual = n_rows - float((counts_T**2).sum()) / max(n_rows, 1)
    of_tokens_S = (between_S - (n_tokens - 1) * within_S).clamp(min=0) / max(usual, 1e-9)
    signal_ST = counts_T * of_tokens_S[:, None]
    weight_ST = signal_ST / (signal_ST + within_S[:, None]).clamp(min=1e-300)
    return mean_S, mean_S1 + weight_ST * (means_ST - mean_S1)


def share_of_one_token(
    sample: LatentSample, tokens_N: Int[Tensor, "N"], documents_N: Int[Tensor, "N"], examples: int
) -> Float[Tensor, "S"]:
    """The part of the activation in a latent's top examples that is on their commonest token.

    Args:
        sample: activations of S latents.
        tokens_N, documents_N: of each row.
        examples: how many top examples, at most one of each document.

    Returns:
        float64 [S], from 1 / examples to 1; NaN of a latent that fires in fewer than two documents.
    """
    shares: list[float] = []
    for place in range(len(sample.latents)):
        rows_M, values_M = sample.of(place)
        top_P = strongest_rows(rows_M, values_M, documents_N, examples)
        if len(top_P) < 2:
            shares.append(float("nan"))
            continue
        _, token_P = np.unique(tokens_N[rows_M[top_P]].numpy(), return_inverse=True)
        mass = np.bincount(token_P, values_M[top_P].double().numpy())
        shares.append(float(mass.max() / mass.sum()))
    return torch.tensor(shares, dtype=torch.float64)
