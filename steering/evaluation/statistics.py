"""How sure a difference between two ways to steer is: intervals, tests, several comparisons.

Prompts are the sample: continuations of one prompt are alike, so that the mean over a prompt's
continuations, or their maximum, is one observation. Two ways are compared prompt by prompt, for
they continue the same prompts from the same random numbers.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from ...sae.common.errors import InputError
from ...training.evaluation.probing.result import Interval, bootstrap

_DRAWS = 10_000
_PERCENTILES = (2.5, 97.5)
_AT_ONCE = 1 << 22
"""Values of resampled tables held at once: 32 MB."""


@dataclass(frozen=True)
class Comparison:
    """What one way to steer has above another, over the same prompts."""

    difference: float
    """Mean of the paired differences, the first minus the second."""
    low: float
    high: float
    """Ends of the 95 % bootstrap interval of the mean."""
    standard_error: float
    """Of the mean: the standard deviation over the bootstrap samples."""
    p_value: float
    """Two-sided, of the hypothesis that the two do not differ; see `compare` and
    `compare_with_draws`."""
    prompts: int
    """How many were compared."""

    @property
    def in_standard_errors(self) -> float:
        """The difference in multiples of its standard error; 0 where both are 0."""
        if self.standard_error == 0:
            return math.copysign(math.inf, self.difference) if self.difference else 0.0
        return self.difference / self.standard_error


def mean_over_prompts(values: Sequence[float] | Float[np.ndarray, "P"]) -> Interval:
    """The mean over prompts with its 95 % percentile bootstrap interval, prompts resampled.

    The same resamples are drawn each time. Raises InputError of none, or of a value that is no
    finite number.
    """
    return bootstrap(_finite(values, "values")[:, None])


def ratio_over_prompts(
    numerators: Sequence[float] | Float[np.ndarray, "P"],
    denominators: Sequence[float] | Float[np.ndarray, "P"],
) -> Interval:
    """sum(numerators) / sum(denominators), such as nats a token, with its bootstrap interval.

    Prompts are resampled, so that long texts weigh as much as they do in the figure.

    Raises InputError if there are none, of unequal numbers, or where the denominators of a sample
    add up to 0.
    """
    above_P, below_P = _finite(numerators, "numerators"), _finite(denominators, "denominators")
    _require_alike(above_P, below_P)
    above_S, below_S = _resampled_sums(np.stack([above_P, below_P]))
    if not below_P.sum() or not below_S.all():
        raise InputError("the denominators of a ratio add up to 0; measure more prompts")
    low, high = np.percentile(above_S / below_S, _PERCENTILES)
    return Interval(float(above_P.sum() / below_P.sum()), float(low), float(high))


def compare(
    own: Sequence[float] | Float[np.ndarray, "P"], other: Sequence[float] | Float[np.ndarray, "P"]
) -> Comparison:
    """Two ways to steer on the same prompts, a value of each for every prompt.

    The interval is that of the paired bootstrap over prompts. The p-value is that of the sign-flip
    test: under the hypothesis each prompt's difference is as likely of the other sign; it is
    (1 + as extreme flips) / (1 + 10,000 flips), so never below 1e-4 (Phipson and Smyth, Permutation
    P-values Should Never Be Zero, 2010).

    Raises InputError if there are none, of unequal numbers, or a value is no finite number.
    """
    own_P, other_P = _finite(own, "values"), _finite(other, "values")
    _require_alike(own_P, other_P)
    differences_P = own_P - other_P
    (sums_S,) = _resampled_sums(differences_P[None])
    return _comparison(differences_P, sums_S / len(differences_P), _sign_flip(differences_P))


def compare_with_draws(
    own: Sequence[float] | Float[np.ndarray, "P"], draws_RP: Float[np.ndarray, "R P"]
) -> Comparison:
    """A way to steer beside the mean of R random ones, such as random directions.

    Random directions differ much among themselves. So interval, standard error and p-value are
    those of a bootstrap that resamples the random draws and the prompts, each independently of the
    other (Owen, The pigeonhole bootstrap, 2007: conservative). The p-value is
    (1 + samples as extreme) / (1 + 10,000 samples), where a sample is as extreme if its mean is as
    far from the difference as the difference is from 0, which is first made smaller by
    sqrt((R - 1) / R), as samples of R draws spread too little by that. Of few draws it is still too
    small: where draws differ much and there is no difference, it is below 0.05 about one time in
    twelve with ten draws, and one time in five with three.

    Raises InputError as `compare`, and for fewer than two draws.
    """
    own_P = _finite(own, "values")
    draws_RP = np.asarray(draws_RP, dtype=np.float64)
    if draws_RP.ndim != 2 or len(draws_RP) < 2:
        raise InputError("one random draw has no spread to compare with; draw at least two")
    for draw_P in draws_RP:
        _require_alike(own_P, _finite(draw_P, "values of a random draw"))
    differences_RP = own_P - draws_RP
    n_draws, n_prompts = differences_RP.shape
    of_draws_RS = np.random.default_rng(1).multinomial(n_draws, _alike(n_draws), size=_DRAWS).T
    sums_S = (of_draws_RS * _resampled_sums(differences_RP)).sum(0)
    means_S, differences_P = sums_S / (n_draws * n_prompts), differences_RP.mean(0)
    shrink = math.sqrt((n_draws - 1) / n_draws)
    return _comparison(differences_P, means_S, _as_extreme(differences_P.mean(), means_S, shrink))


def unpaired_difference(
    own: Sequence[float] | Float[np.ndarray, "P"], other: Sequence[float] | Float[np.ndarray, "Q"]
) -> Interval:
    """The mean over some prompts minus that over others, with its 95 % bootstrap interval; both
    are resampled, each independently of the other.

    Raises InputError if there are none of one kind, or a value is no finite number.
    """
    generator = np.random.default_rng(0)
    means: list[np.ndarray] = []
    for values_P in (_finite(own, "values"), _finite(other, "values")):
        n = len(values_P)
        means.append(generator.multinomial(n, _alike(n), size=_DRAWS) @ values_P / n)
    low, high = np.percentile(means[0] - means[1], _PERCENTILES)
    return Interval(float(np.mean(own) - np.mean(other)), float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order of the given ones.

    A hypothesis is rejected at level a if its adjusted value is at most a; the chance of any false
    rejection is then at most a, however the tests depend on each other (Holm, A Simple Sequentially
    Rejective Multiple Test Procedure, 1979).

    Raises InputError for a value that is no probability.
    """
    for value in p_values:
        if not 0 <= value <= 1:
            raise InputError(f"a p-value is {value!r}, but must be from 0 to 1")
    n, largest = len(p_values), 0.0
    adjusted = [0.0] * n
    for rank, number in enumerate(sorted(range(n), key=lambda number: p_values[number])):
        largest = max(largest, min(1.0, (n - rank) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def _comparison(
    differences_P: Float[np.ndarray, "P"], means_S: np.ndarray, p_value: float
) -> Comparison:
    low, high = np.percentile(means_S, _PERCENTILES)
    return Comparison(
        difference=float(differences_P.mean()),
        low=float(low),
        high=float(high),
        standard_error=float(means_S.std(ddof=1)),
        p_value=p_value,
        prompts=len(differences_P),
    )


def _sign_flip(differences_P: Float[np.ndarray, "P"]) -> float:
    observed = abs(differences_P.sum())
    # Sums of the same numbers in another order differ by rounding.
    observed -= 1e-12 * float(np.abs(differences_P).sum())
    extreme = sum(
        int((np.abs(signs_SP @ differences_P) >= observed).sum())
        for signs_SP in _signs(len(differences_P))
    )
    return (1 + extreme) / (1 + _DRAWS)


def _as_extreme(difference: float, means_S: np.ndarray, shrink: float) -> float:
    """The p-value of a bootstrap: how often its means are as far from the difference as that is
    from 0."""
    # Equal figures differ by rounding.
    observed = shrink * abs(difference) - 1e-12 * float(np.abs(means_S).max())
    extreme = int((np.abs(means_S - difference) >= observed).sum())
    return (1 + extreme) / (1 + _DRAWS)


def _resampled_sums(values_VP: Float[np.ndarray, "V P"]) -> Float[np.ndarray, "V S"]:
    """The sums of each row over 10,000 samples of the P prompts, with replacement; the same samples
    each time."""
    parts = [values_VP @ samples_SP.T for samples_SP in _resamples(values_VP.shape[1])]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


_Tables = Iterable[Int[np.ndarray, "S P"]]


def _resamples(n: int) -> _Tables:
    """How often each of n prompts is in each sample."""
    return _kept_resamples(n) if n * _DRAWS <= _AT_ONCE else _drawn_resamples(n)


def _signs(n: int) -> _Tables:
    """1 or -1 for each of n prompts and each flip."""
    return _kept_signs(n) if n * _DRAWS <= _AT_ONCE else _drawn_signs(n)


# A study makes hundreds of comparisons over the same prompts, and drawing the tables takes longer
# than using them.
@lru_cache(maxsize=2)
def _kept_resamples(n: int) -> _Tables:
    return tuple(_drawn_resamples(n))


@lru_cache(maxsize=2)
def _kept_signs(n: int) -> _Tables:
    return tuple(_drawn_signs(n))


def _drawn_resamples(n: int) -> Iterator[Int[np.ndarray, "S P"]]:
    generator = np.random.default_rng(0)
    for size in _sizes(n):
        yield generator.multinomial(n, _alike(n), size=size)


def _drawn_signs(n: int) -> Iterator[Int[np.ndarray, "S P"]]:
    generator = np.random.default_rng(2)
    for size in _sizes(n):
        yield generator.integers(2, size=(size, n)) * 2 - 1


def _sizes(n: int) -> Iterator[int]:
    """How many of the draws are held at once."""
    at_once = max(1, _AT_ONCE // n)
    for start in range(0, _DRAWS, at_once):
        yield min(at_once, _DRAWS - start)


def _alike(n: int) -> Float[np.ndarray, "n"]:
    return np.full(n, 1 / n)


def _finite(values: Sequence[float] | np.ndarray, what: str) -> Float[np.ndarray, "P"]:
    array_P = np.asarray(values, dtype=np.float64)
    if array_P.ndim != 1 or not len(array_P):
        raise InputError(f"there are no {what} to compare; measure at least one prompt")
    if not np.isfinite(array_P).all():
        raise InputError(
            f"{what} hold {array_P[~np.isfinite(array_P)][0]}, which is no number; leave out the "
            "prompts whose texts could not be written, on both sides"
        )
    return array_P


def _require_alike(one_P: np.ndarray, other_P: np.ndarray) -> None:
    if len(one_P) != len(other_P):
        raise InputError(
            f"{len(one_P)} prompts cannot be paired with {len(other_P)}; measure both on the same"
        )
