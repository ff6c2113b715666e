"""Batch size, learning rate and dead window where they are left open: one rule, from the tokens,
the width of the dictionary and the activation. Imports no torch.

The rule's form: a batch so large that the run takes about `USUAL_STEPS` updates, a rate that falls
with the square root of the latents (the scaling of arXiv 2406.04093) and slowly with the number of
updates, and a dead window that is a share of the run. benchmarks/search_defaults.py searches for
better values at several sizes; docs/training.md has its table.
"""

import math
from dataclasses import dataclass

USUAL_STEPS = 800
"""Updates that a run should take at least; batches grow with `tokens` as long as it does."""
LEAST_BATCH = 128
"""Smaller batches cost more time than they gain."""
MOST_BATCH = 4096
"""Above it a run takes more updates instead."""

USUAL_LR = 8e-4
"""The rate of `LR_LATENTS` latents and `LR_STEPS` updates."""
LR_LATENTS = 2**14
LR_STEPS = 1000
LR_EXPONENT = 0.25
"""How fast the rate falls with more updates: as 1 / updates to this power."""
LEAST_LR = 2e-4
"""Of `LR_LATENTS` latents however long the run, as published for runs of 500 million tokens."""
MOST_LR = 5e-3
"""Of any dictionary, however narrow it is and short the run."""
LR_FACTORS = {"top_afa": 0.5}
"""By activation; 1 for one that is not named. At the rate of topk half of top-AFA's latents die."""

DEAD_FRACTION = 0.1
"""Of the run's tokens."""
MOST_DEAD_TOKENS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class TrainingDefaults:
    """What the rule gives."""

    batch_size: int
    """Rows of one update."""
    lr: float
    """Adam's learning rate at its highest."""
    dead_after_tokens: int
    """Rows without firing after which a latent counts as dead."""


def derived_defaults(
    tokens: int, n_latents: int, activation: str, *, batch_size: int | None = None
) -> TrainingDefaults:
    """The settings of a run that leaves them open.

    Args:
        tokens: activation rows of the whole run.
        n_latents: latents of the whole dictionary.
        activation: the activation's name.
        batch_size: rows of one update where they are given: the rate depends on how many updates
            there are.
    """
    batch_size = batch_size or derived_batch_size(tokens)
    return TrainingDefaults(
        batch_size=batch_size,
        lr=derived_lr(max(1, tokens // batch_size), n_latents, activation),
        dead_after_tokens=derived_dead_window(tokens),
    )


def derived_batch_size(tokens: int) -> int:
    """The power of two with which the run comes nearest to `USUAL_STEPS` updates, between the
    bounds; never more than the tokens."""
    nearest = 2 ** round(math.log2(max(1.0, tokens / USUAL_STEPS)))
    return min(max(nearest, LEAST_BATCH), MOST_BATCH, max(2, tokens))


def derived_lr(steps: int, n_latents: int, activation: str) -> float:
    """The learning rate of so many updates and latents, to three digits."""
    by_steps = max(LEAST_LR, USUAL_LR * (LR_STEPS / steps) ** LR_EXPONENT)
    factor = LR_FACTORS.get(activation, 1.0)
    return float(f"{min(MOST_LR, factor * by_steps * math.sqrt(LR_LATENTS / n_latents)):.3g}")


def derived_dead_window(tokens: int) -> int:
    """A share of the tokens, within its bound."""
    return min(MOST_DEAD_TOKENS, max(1, round(DEAD_FRACTION * tokens)))
