"""One feature as HTML that stands by itself in a page: rendered here, only shown there."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from ...sae.common.text import visible
from ...sae.common.wording import count
from ...steering.features.feature import Example, Feature
from ..browser.charts import Axis, Mark, histogram
from ..browser.examples import example_markup, token_text
from ..browser.feature_facts import where_it_fires
from ..browser.numbers import figures, rate
from .chosen import SharedFeature

PAGE = Path(__file__).parent / "page"


def feature_html(shared: SharedFeature, examples: int, unit: str) -> str:
    """The whole of a feature: label, numbers, examples by level, tokens, related features.

    Args:
        shared: the feature and what it is called.
        examples: largest activations that are shown; of every other group a fourth as many.
        unit: what an activation is measured in.
    """
    feature = shared.feature
    return (
        environment()
        .get_template("feature.html")
        .render(
            shared=shared,
            feature=feature,
            unit=unit,
            plot=_plot(feature) if feature.fired else "",
            groups=_groups(feature, examples),
            largest=feature.max_activation,
        )
    )


@cache
def environment() -> jinja2.Environment:
    """The templates of the page, which escape all text."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = made.filters
    filters.update(
        visible=visible,
        count=count,
        figures=figures,
        rate=rate,
        token=token_text,
        example=example_markup,
    )
    return made


def _groups(feature: Feature, examples: int) -> list[tuple[str, str, Sequence[Example]]]:
    """Title, explanation and examples of each group that has any."""
    few = -(-examples // 4)
    groups: list[tuple[str, str, Sequence[Example]]] = [
        (
            "Largest activations",
            "The places where it is most active, one for each context.",
            feature.top[:examples],
        )
    ]
    for group in sorted(feature.quantiles, key=lambda group: -group.low):
        groups.append(
            (
                f"Activations {figures(group.low)} to {figures(group.high)}",
                f"A sample of the {rate(group.fraction)} of its firings that lie there.",
                group.examples[:few],
            )
        )
    groups += [
        ("Random firings", "Drawn from all its firings alike.", feature.random[:few]),
        (
            "Near misses",
            "Places where it would have fired next: what it does not mean, though it looks so.",
            feature.near_misses[:few],
        ),
    ]
    return [group for group in groups if group[2]]


def _plot(feature: Feature) -> str:
    edges, firings = where_it_fires(feature)
    return histogram(
        f"Histogram of the activations of feature {feature.feature}",
        edges,
        firings,
        Axis("activation, scale of doublings", edges[0], edges[-1], logarithmic=True),
        "firings",
        marks=[
            Mark(feature.median_activation, "median"),
            Mark(feature.max_activation, "largest"),
        ],
        ticks_as=figures,
    )
