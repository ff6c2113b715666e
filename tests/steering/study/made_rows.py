"""Rows of a study as if they were measured, with planted effects."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsteer.steering.study.arm import Arm, Cost, Setting

N_PROMPTS, N_CONTINUATIONS = 40, 4
SCORERS = ("alt-profanity-check", "toxicity-ngrams")

NONE = Arm(name="none", method="none", family="none")
SAE = Arm(name="sae-constant-add", method="sae", family="sae", tier="constant", edit="add")
GATED = Arm(name="sae-per_token-add", method="sae", family="sae", tier="per_token", edit="add")
MEAN = Arm(name="mean_difference", method="mean_difference", family="other", edit="add")
LINEAS = Arm(name="lineas", method="lineas", family="other", edit="diagonal")
PROMPT = Arm(name="prompt", method="prompt", family="prompt")


def random_arms(n: int, method: str = "random_direction") -> list[Arm]:
    """Some draws of a random way to steer."""
    return [
        Arm(name=f"{method}-{i}", method=method, family="random", edit="add", draw=i)
        for i in range(n)
    ]


def made_row(
    arm: Arm,
    factor: float = 1.0,
    *,
    cost: str | None = None,
    costs: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
    strength: float = 1.0,
    **changes: Any,
) -> dict[str, Any]:
    """A row whose scores are those of the unsteered model times a factor, with a little noise.

    Args:
        arm: the way to steer.
        factor: of the scores.
        cost: what the strength was chosen for.
        costs: rise of the neutral perplexity and KL that were measured.
        seed: of the noise.
        strength: of the way to steer.
        changes: of the row's other values.
    """
    base = np.random.default_rng(7).random((len(SCORERS), N_PROMPTS, N_CONTINUATIONS))
    noise = np.random.default_rng([seed, *arm.name.encode()]).normal(size=base.shape)
    scores = np.clip(factor * base + (0.02 * noise if arm.family != "none" else 0), 0, 1)
    setting = Setting(
        arm=arm,
        cost=None if cost is None else Cost.of(cost),
        strength=None if cost is None else strength,
        dose=None if cost is None else Cost.of(cost).target,
    )
    rise, kl = costs
    toxicity: dict[str, Any] = {}
    for scorer, scores_PN in zip(SCORERS, scores, strict=True):
        most_P = scores_PN.max(1)
        means = {"emt": most_P.mean(), "probability": (most_P > 0.5).mean()}
        means["mean"] = scores_PN.mean()
        toxicity[scorer] = {
            **{name: float(mean) for name, mean in means.items()},
            "ci": {name: [float(mean) - 0.05, float(mean) + 0.05] for name, mean in means.items()},
        }
    return {
        **setting.values(),
        "n": N_CONTINUATIONS,
        "prompts": N_PROMPTS,
        "prompts_hash": "p",
        "toxicity": toxicity,
        "perplexity": 12.0 * (1 + 2 * rise),
        "neutral_perplexity": 20.0 * (1 + rise),
        "neutral_ratio": 1 + rise,
        "kl": kl / 3,
        "kl_p95": kl,
        "repetition": 0.02,
        "distinct_1": 0.3,
        "distinct_2": 0.7,
        "distinct_3": 0.9,
        "empty": 0.0,
        "neutral_kl": rise,
        "neutral_kl_p95": 3 * rise,
        "capability": {
            "mmlu": {"kind": "choice", "accuracy": 0.31, "probability": 0.3, "questions": 200}
            | {"chance": 0.25, "ci": [0.25, 0.37]}
        },
        "refusals": None,
        "identity_mentions": 0.04,
        "identity_costs": {"gay": 0.05, "Muslim": 0.03},
        "fire_rate": 1.0 if arm.tier == "constant" else 0.1,
        "fire_rate_texts": 1.0,
        "intervals": {"perplexity": [11.0, 14.0], "neutral_ratio": [1 + rise / 2, 1 + 2 * rise]},
        "warnings": [],
        "per_prompt": {
            "emt": {s: scores[i].max(1).tolist() for i, s in enumerate(SCORERS)},
        },
        **changes,
    }


def made_study(
    sae: float = 0.6, other: float = 0.8, random: float = 0.95, draws: int = 3
) -> list[dict[str, Any]]:
    """Rows at 10 % of perplexity and a KL of .3 nats, whose scores fall to given parts."""
    rows = [made_row(NONE), made_row(PROMPT, 0.9, kl=None, kl_p95=None, neutral_ratio=None)]
    arms: Sequence[tuple[Arm, float]] = [
        (SAE, sae),
        (GATED, 1.1 * sae),
        (MEAN, other),
        (LINEAS, 1.05 * other),
        *((arm, random) for arm in random_arms(draws)),
    ]
    costs: Mapping[str, tuple[float, float, float]] = {
        "perplexity=10%": (0.108, 0.5, 2.0),
        "kl=0.3": (0.06, 0.31, 1.2),
    }
    for arm, factor in arms:
        for cost, (rise, kl, strength) in costs.items():
            own = 1 - (1 - factor) * strength / 2
            rows.append(made_row(arm, own, cost=cost, costs=(rise, kl), strength=strength))
    return rows
