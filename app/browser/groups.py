"""The examples of a feature in the groups that its page shows: the strongest to near misses."""

from dataclasses import dataclass

from ...steering.features.feature import Example, Feature
from .numbers import figures, rate

_SHOWN_OF_TOP = 10


@dataclass(frozen=True)
class Group:
    """Examples that belong together."""

    key: str
    """Short name, for addresses and marks."""
    title: str
    how: str
    """How to read it."""
    examples: tuple[Example, ...]
    further: tuple[Example, ...] = ()
    """Shown when asked for."""


def groups(feature: Feature) -> list[Group]:
    """The groups that have an example."""
    found = [
        Group(
            "top",
            "Strongest",
            "The largest activations, one from each context. They show what the feature fires on "
            "at its clearest, which may be narrower than what it stands for.",
            feature.top[:_SHOWN_OF_TOP],
            feature.top[_SHOWN_OF_TOP:],
        )
    ]
    n_levels = len(feature.quantiles)
    for place, level in enumerate(feature.quantiles):
        found.append(
            Group(
                f"level-{n_levels - place}",
                f"Level {n_levels - place} of {n_levels}: {_bounds(level.low, level.high)}",
                f"Drawn at random from the {rate(level.fraction)} of its firings with an "
                "activation between these. If lower levels are about something else than the "
                "strongest examples, a label of those is too narrow or wrong.",
                level.examples,
            )
        )
    found += [
        Group(
            "random",
            "Random firings",
            "Drawn at random from all its firings: what one meets, most of it weak.",
            feature.random[: _SHOWN_OF_TOP // 2] if feature.quantiles else feature.random,
            feature.random[_SHOWN_OF_TOP // 2 :] if feature.quantiles else (),
        ),
        Group(
            "near",
            "Near misses",
            "Where the feature came closest to firing without being kept. What tells them from the "
            "examples above is what the feature is about.",
            feature.near_misses,
        ),
    ]
    return [group for group in found if group.examples]


def _bounds(low: float, high: float) -> str:
    return f"{figures(low)} to {figures(high)}" if low > 0 else f"up to {figures(high)}"
