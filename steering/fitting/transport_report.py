"""What is known of maps that carry source texts to target texts: their cost, and what is left."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...sae.language_model.model import LanguageModel
from .affine_maps import transport_cost
from .coordinates import SiteMap, mapped_coordinates
from .fitted import FitReport
from .trained_capture import TextBatch, pooled
from .trained_report import separation_along
from .two_sets import TwoSets, samples


def transport_report(
    model: LanguageModel,
    method: str,
    maps: Sequence[SiteMap],
    sets: TwoSets,
    *,
    moved: Mapping[str, float],
    details: Mapping[str, Any],
) -> FitReport:
    """What is known of maps at some sites; `moved` is the fraction of moved elements by site."""
    held_out = bool(sets.source_out and sets.target_out)
    source = sets.source_out if held_out else sets.source
    target = sets.target_out if held_out else sets.target
    last = maps[-1].coordinates
    apart = None
    if held_out:
        means = [samples(model, last, side, "mean").mean(0) for side in (sets.target, sets.source)]
        apart = separation_along(
            means[0] - means[1],
            samples(model, last, target, "mean"),
            samples(model, last, source, "mean"),
        )
    return FitReport(
        method=method,
        n_texts=sets.n_texts,
        n_tokens=sets.n_tokens,
        separation=apart,
        moved=sum(moved.values()) / len(moved),
        details={
            "moved_by_site": dict(moved),
            **costs(model, maps, source, target),
            "costs_on_held_out_texts": held_out,
            **details,
        },
    )


@torch.no_grad()
def costs(
    model: LanguageModel,
    maps: Sequence[SiteMap],
    source: Sequence[TextBatch],
    target: Sequence[TextBatch],
) -> dict[str, dict[str, float]]:
    """By site the mean transport cost of a coordinate from source to target, in squared standard
    deviations of the unedited source: `cost_before` the maps, and `cost_after` all of them."""
    found: dict[str, dict[str, float]] = {"cost_before": {}, "cost_after": {}}
    mapped: dict[str, list[Tensor]] = {each.site: [] for each in maps}
    for batch in source:
        for name, rows_BLM in mapped_coordinates(model, maps, batch).items():
            mapped[name].append(pooled(rows_BLM, batch.content_BL, "mean"))
    for each in maps:
        clean_NM = samples(model, each.coordinates, source, "mean")
        goal_NM = samples(model, each.coordinates, target, "mean")
        unit_M = deviations(clean_NM)
        after_NM = torch.cat(mapped[each.site])
        for name, rows_NM in (("cost_before", clean_NM), ("cost_after", after_NM)):
            cost_M = transport_cost(rows_NM / unit_M, goal_NM / unit_M)
            found[name][each.site] = float(cost_M.mean())
    return found


def deviations(rows_NM: Float[Tensor, "N M"]) -> Float[Tensor, "M"]:
    """The standard deviation of each coordinate; 1 where it does not vary."""
    deviation_M = rows_NM.std(0, correction=0)
    varies_M = deviation_M > 1e-7 * rows_NM.abs().amax(0)
    return torch.where(varies_M, deviation_M, 1)
