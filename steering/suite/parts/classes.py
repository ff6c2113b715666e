"""The part `classes`: reconstruction and sparsity by class of position and by norm."""

from collections.abc import Mapping, Sequence
from typing import Any

from ....training.evaluation.by_class import figures_by_class
from ..part import Figure, Measured, Part, SuiteContext


def classes(context: SuiteContext) -> Sequence[Measured]:
    """What `figures_by_class` finds about each autoencoder, all of it in the details."""
    found = figures_by_class(
        context.subjects,
        context.cache,
        context.settings,
        context.model(),
        progress=context.progress,
    )
    return [Measured(figures=_figures(result), details=result) for result in found]


def _figures(result: Mapping[str, Any]) -> list[Figure]:
    groups = {
        **result["classes"],
        **{
            f"norm_{100 * group['from']:g}_{100 * group['to']:g}": group
            for group in result["norm_quantiles"]
        },
    }
    figures: list[Figure] = []
    for name, group in groups.items():
        shown = name if name in result["classes"] else f"norm {_span(name)}"
        in_table = name in result["classes"]
        figures.append(
            Figure(
                name=f"fvu_{name}",
                value=group["fvu"],
                heading=f"FVU {shown}",
                standard_error=group["fvu_standard_error"],
                in_table=in_table,
            )
        )
        figures.append(
            Figure(
                name=f"l0_{name}",
                value=group["l0"],
                heading=f"L0 {shown}",
                standard_error=group["l0_standard_error"],
                digits=1,
                in_table=False,
            )
        )
    return figures


def _span(name: str) -> str:
    _, low, high = name.split("_")
    return f"{low}-{high}%"


CLASSES = Part(
    measure=classes,
    heading="FVU by class",
    reading="FVU at BOS and other special tokens, at the first other token of a context, at "
    "punctuation and white space, and at the rest, all about the mean held-out row. Autoencoders "
    "are trained on the last two alone.",
    needs_model=True,
)
