"""The part `stability`: do runs that differ by the seed have the same latents?"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from ....training.evaluation.latents.stability import firing_mass
from ....training.evaluation.latents.stability import stability as measure_stability
from ..part import Figure, Measured, Part, SuiteContext


def stability(context: SuiteContext) -> Sequence[Measured]:
    """What `stability` finds about each autoencoder beside those of its other seeds."""
    found: dict[int, Measured] = {}
    if context.seeds and find_spec("scipy") is None:
        why = "stability: needs scipy, which is missing; pip install 'sparsteer[eval]'"
        return [Measured(warnings=[why]) for _ in context.subjects]
    for group in context.seeds:
        if len(group) < 2:
            continue
        rows_ND = context.cache.held_out(site=group[0].site, limit=context.settings.rows)
        masses = [firing_mass(subject.sae, rows_ND) for subject in group]
        result = measure_stability([s.sae for s in group], masses, seed=context.seed)
        names = [subject.path for subject in group]
        for number, subject in enumerate(group):
            pairs: list[dict[str, Any]] = [
                {**pair, "one": names[pair["one"]], "other": names[pair["other"]]}
                for pair in result["pairs"]
                if pair["one"] == number
            ]
            found[id(subject)] = Measured(figures=_figures(pairs), details={"pairs": pairs})
    return [found.get(id(subject), Measured()) for subject in context.subjects]


def _figures(pairs: Sequence[Mapping[str, Any]]) -> list[Figure]:
    def mean(kind: str, name: str) -> float:
        return sum(pair[kind][name] for pair in pairs) / len(pairs)

    def above(least: str) -> float:
        return sum(pair["matched"]["above"][least] for pair in pairs) / len(pairs)

    return [
        Figure(name="nearest", value=mean("nearest", "mean"), heading="nearest"),
        Figure(name="matched", value=mean("matched", "mean"), heading="matched"),
        Figure(name="matched_above_0.7", value=above("0.7"), heading="over .7", percent=True),
        Figure(name="matched_above_0.9", value=above("0.9"), heading="over .9", percent=True),
        Figure(name="matched_weighted", value=mean("matched", "weighted_mean"), heading="by mass"),
        Figure(
            name="random_nearest",
            value=sum(pair["random_nearest"] for pair in pairs) / len(pairs),
            heading="random",
            in_table=False,
        ),
    ]


STABILITY = Part(
    measure=stability,
    heading="Stability over seeds",
    reading="Cosines of a run's latents with those of runs that differ by the seed alone: the "
    "nearest, and the one of a matching that gives every latent once; the parts above .7 and .9, "
    "and the mean weighted by how much a latent fires. Only of runs of several seeds.",
    depends_on=("cache", "rows"),
    together=True,
)
