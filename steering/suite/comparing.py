"""Probes of latents beside probes of principal components, from the scores that the suite keeps."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...training.evaluation.probing.result import ArmFigures, ProbeScore, differences
from ...training.evaluation.subjects import Subject
from .part import Figure
from .store import plain_figures

_OTHER = "pca"


def with_probing_above_pca(
    subjects: Sequence[Subject], found: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The results by part of each subject, with further figures of the part `probing`:
    `above_pca_K`, what k latents have above k latents of the PCA at its site whose number of
    latents on a row is nearest.

    Probes of the same task and split are compared, so that the intervals are narrower than those of
    the two means. Where PCA was not measured nothing is added.
    """
    return [
        _compared(number, subjects, found) if subjects[number].baseline is None else dict(of_parts)
        for number, of_parts in enumerate(found)
    ]


def _compared(
    number: int, subjects: Sequence[Subject], found: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    parts = dict(found[number])
    own, l0 = parts.get("probing"), _l0(subjects[number], parts)
    distances = {
        place: abs(other - l0)
        for place, subject in enumerate(subjects)
        if subject.baseline == _OTHER and subject.site == subjects[number].site
        if l0 is not None and (other := _l0(subject, found[place])) is not None
    }
    if own is None or not distances:
        return parts
    nearest = found[min(distances, key=lambda place: distances[place])]
    above = differences(_scores(own), "latents", _scores(nearest["probing"]), "latents")
    figures = plain_figures([_figure(each) for each in above])
    parts["probing"] = {**own, "figures": {**own["figures"], **figures}}
    return parts


def _figure(above: ArmFigures) -> Figure:
    return Figure(
        name=f"above_{_OTHER}_{above.k}",
        value=above.accuracy.mean,
        heading=f"above PCA {above.k}",
        interval=(above.accuracy.low, above.accuracy.high),
    )


def _l0(subject: Subject, parts: Mapping[str, Any]) -> float | None:
    """Latents of a row: as configured, else as measured; None if neither is known."""
    if (k := subject.sae.config.latents_of_row) is not None:
        return float(k)
    measured = parts.get("held_out", {}).get("figures", {}).get("l0")
    return None if measured is None else measured["value"]


def _scores(of_probing: Mapping[str, Any]) -> list[ProbeScore]:
    rows: list[dict[str, Any]] = of_probing["details"]["scores"]
    return [ProbeScore(**dict(row, columns=tuple(row["columns"]))) for row in rows]
