"""The numbers of one feature, each with what it means, and the histogram of its activations."""

from markupsafe import Markup

from ...sae.common.wording import count
from ...steering.features.feature import Feature
from .charts import Axis, Mark, Rug, histogram
from .facts import Fact
from .numbers import figures, rate

_FEWEST_BARS = 9
"""Of a histogram: a little more than two doublings, so that its axis has ticks."""


def feature_facts(feature: Feature, interest: float, rows: int) -> list[Fact]:
    """The statistics of a feature.

    Args:
        feature: from the index.
        interest: see `steering.features.interest`.
        rows: that the index read.
    """
    facts = [
        Fact(
            "density",
            f"{rate(feature.density)} ({count(feature.fired)} of {count(rows)} tokens)",
            "How often the feature fires. Below about 0.1% it is rare and may stand for something "
            "narrow; above 10% it rarely stands for one thing.",
        ),
        Fact(
            "largest activation",
            figures(feature.max_activation),
            "The unit of steering: strength 1 adds the feature as strongly as it ever fired on "
            "the texts that the index read.",
        ),
        Fact(
            "usual activation",
            f"{figures(feature.median_activation)} (99%: {figures(feature.p99_activation)})",
            "Half of its firings are not stronger than the first number, 99 in 100 not stronger "
            "than the second.",
        ),
        Fact(
            "interest",
            figures(interest),
            "From 0 to 1: its mean activation where it fires as a share of its largest, times how "
            "rare it is, and less for very few firings. A first order to look at features in.",
        ),
    ]
    if feature.token_explained is not None:
        facts.append(
            Fact(
                "token explained",
                rate(feature.token_explained),
                "How much of its activation the token it fires on explains by itself (omega "
                "squared). Near 100% it stands for a word or a sign; near 0% for something in the "
                "context.",
            )
        )
    if feature.special_fraction is not None:
        facts.append(
            Fact(
                "at special tokens",
                rate(feature.special_fraction),
                "Its firings that are at special tokens, such as the start of a text, or where the "
                "model parks attention. They count nowhere else here; a feature with many of them "
                "is about the model's housekeeping.",
            )
        )
    return facts


def activation_plot(feature: Feature, unit: str) -> Markup:
    """Its firings by activation, with quantiles, and where the shown examples lie."""
    edges, counts = where_it_fires(feature)
    levels = [example.activation for group in feature.quantiles for example in group.examples]
    rugs = [
        Rug(name, [example for example in values if example > 0])
        for name, values in (
            ("top", [example.activation for example in feature.top]),
            ("levels", levels),
            ("random", [example.activation for example in feature.random]),
        )
        if values
    ]
    return histogram(
        f"Histogram of the {feature.fired:,} activations of feature {feature.feature}: half are at "
        f"most {figures(feature.median_activation)}, the largest is "
        f"{figures(feature.max_activation)}",
        edges,
        counts,
        Axis(f"activation ({unit})", edges[0], edges[-1], logarithmic=True),
        "firings",
        marks=[
            Mark(feature.median_activation, "50%"),
            Mark(feature.p99_activation, "99%"),
            Mark(feature.max_activation, "largest"),
        ],
        rugs=rugs,
    )


def histogram_rows(feature: Feature) -> list[tuple[str, str]]:
    """The same as a table: bounds and firings of each bin."""
    edges, counts = where_it_fires(feature)
    return [
        (f"{low:g} to {high:g}", count(number))
        for low, high, number in zip(edges, edges[1:], counts, strict=False)
    ]


def where_it_fires(feature: Feature) -> tuple[list[float], list[int]]:
    """Edges and counts from the first bin that is not empty to the last, a few at least."""
    full = [place for place, number in enumerate(feature.histogram) if number] or [0]
    first, end, n_bins = full[0], full[-1] + 1, len(feature.histogram)
    while end - first < min(_FEWEST_BARS, n_bins):
        first, end = max(0, first - 1), min(n_bins, end + 1)
    return list(feature.histogram_edges[first : end + 1]), list(feature.histogram[first:end])


def short_unit(unit: str) -> str:
    """The index's unit in two words."""
    return "scaled units" if unit.startswith("scaled units") else "units of its library"
