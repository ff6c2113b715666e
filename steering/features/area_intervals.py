"""How certain the difference of two areas under the ROC curve is, over resampled texts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

_RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def difference_of_areas(
    one_N: Float[np.ndarray, "N"],
    other_N: Float[np.ndarray, "N"],
    is_positive_N: Bool[np.ndarray, "N"],
    seed: int,
) -> Interval:
    """The area of one score less that of another on the same texts, with the 2.5th and 97.5th
    percentiles over 1,000 bootstrap samples, in which positive and negative texts are drawn apart.

    The area of a sample is the mean over its pairs of a positive and a negative text, so a sample
    is a weight for each text.
    """
    wins = [
        _wins(scores_N[is_positive_N], scores_N[~is_positive_N]) for scores_N in (one_N, other_N)
    ]
    difference_PQ = wins[0] - wins[1]
    n_positive, n_negative = difference_PQ.shape
    generator = np.random.default_rng(seed)
    rates = [np.full(n, 1 / n) for n in (n_positive, n_negative)]
    weights_SP = generator.multinomial(n_positive, rates[0], size=_RESAMPLES) / n_positive
    weights_SQ = generator.multinomial(n_negative, rates[1], size=_RESAMPLES) / n_negative
    samples_S = ((weights_SP @ difference_PQ) * weights_SQ).sum(axis=1)
    low, high = np.percentile(samples_S, (2.5, 97.5))
    return Interval(float(difference_PQ.mean()), float(low), float(high))


def _wins(positive_P: np.ndarray, negative_Q: np.ndarray) -> Float[np.ndarray, "P Q"]:
    """1 where the positive text has the larger score, one half where they are equal."""
    difference_PQ = positive_P[:, None] - negative_Q[None]
    return (np.sign(difference_PQ) + 1) / 2
