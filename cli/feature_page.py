"""How a feature is shown in a terminal."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..sae.common.text import visible
from ..sae.common.wording import count, counted, percent
from ..steering.features.manifest import source_of
from .console import table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from ..steering.features.index import Example, Feature, RankedToken

_BARS = " ▁▂▃▄▅▆▇█"
_HEAT = ("", "on #4a2f00", "on #7a4b00", "on #ad6a00", "on #e08a00")
"""Background of a token by its activation; color only repeats what marks and numbers say."""

_OF_LEVEL = 2
"""Examples shown of each level of activation."""


def statistics_of(feature: "Feature") -> "list[RenderableType]":
    """What is shown of a feature before its examples."""
    edges, counts = feature.histogram_edges, feature.histogram
    used = [number for number, firings in enumerate(counts) if firings]
    rows = [
        ("fired", count(feature.fired), "rows"),
        ("density", f"{100 * feature.density:.4g}%", "fraction of the rows on which it fires"),
    ]
    if not used:
        return [table(*rows), "it never fired, so there is nothing more to show"]
    inside = counts[used[0] : used[-1] + 1]
    bars = "".join(_BARS[-(-firings * (len(_BARS) - 1) // max(inside))] for firings in inside)
    low, high = edges[used[0]], edges[used[-1] + 1]
    rows += [
        (
            "max",
            f"{feature.max_activation:.4g}",
            "largest activation, the unit of steering strength",
        ),
        ("p99", f"{feature.p99_activation:.4g}", "99 in 100 firings do not exceed it"),
        ("median", f"{feature.median_activation:.4g}", "half of its firings do not exceed it"),
        ("mean", f"{feature.mean_activation:.4g}", "mean activation where it fires"),
    ]
    if feature.token_explained is not None:
        shown = percent(feature.token_explained)
        rows.append(("token", shown, "of its activation the token alone explains"))
    if feature.special_fraction is not None:
        shown = percent(feature.special_fraction)
        rows.append(("special", shown, "of its firings, at special tokens or attention sinks"))
    return [
        table(*rows),
        f"histogram: |{bars}|",
        f"firings by activation, from {low:.3g} to {high:.3g}, four bars for each doubling "
        f"(highest bar {count(max(inside))} firings)",
        *_tokens("positive logits", feature.positive_logits),
        *_tokens("negative logits", feature.negative_logits),
        *_tokens("by the Jacobian lens", feature.lens),
        "nearest decoder directions: "
        + ", ".join(f"{n.feature} (cosine {n.cosine:.2f})" for n in feature.neighbors),
        *_together(feature),
    ]


def _together(feature: "Feature") -> list[str]:
    if not feature.coactivating:
        return []
    others = (
        f"{other.feature} ({percent(other.together)}, Jaccard {other.jaccard:.2f})"
        for other in feature.coactivating
    )
    return ["fires together with (in so many of its firings): " + ", ".join(others)]


def examples_of(feature: "Feature", limit: int, manifest: dict[str, Any]) -> "list[RenderableType]":
    """Places where a feature fires, at most so many of a kind, of levels at most two each; the
    manifest of the index may say which text each is from."""
    sections = [
        ("largest activations, one for each context:", feature.top[:limit]),
        ("random ones of all its activations:", feature.random[:limit]),
        *(
            (
                f"from {level.low:.3g} to {level.high:.3g}, {percent(level.fraction)} of its "
                "firings:",
                level.examples[: min(limit, _OF_LEVEL)],
            )
            for level in feature.quantiles
        ),
        ("near misses, by pre-activation, where it was not kept:", feature.near_misses[:limit]),
    ]
    shown: list[RenderableType] = []
    for title, examples in sections:
        if examples:
            shown += ["", title, *(_example(e, feature.max_activation, manifest) for e in examples)]
    return shown


def _tokens(title: str, tokens: "tuple[RankedToken, ...] | None") -> list[str]:
    if tokens is None:
        return []
    return [f"{title}: " + "  ".join(f"'{visible(t.text)}' {t.logit:+.1f}" for t in tokens)]


def _example(example: "Example", most: float, manifest: dict[str, Any]) -> "Text":
    """A line: activation, or a near miss's pre-activation, place, and the tokens with the peak
    between brackets."""
    from rich.text import Text

    score = example.activation if example.pre_activation is None else example.pre_activation
    source = source_of(manifest, example.document)
    document = f"doc {example.document}" if source is None else f"{source[0]} doc {source[1]}"
    line = Text(f"{score:8.3f}  {document} token {example.position}  ")
    if not example.starts_document:
        line.append("…")
    heated(line, example.texts, example.activations, most, example.peak)
    if example.duplicates:
        line.append(f"  (and {counted(example.duplicates, 'place')} more)")
    return line


def heated(
    line: "Text",
    texts: Sequence[str],
    activations: Sequence[float],
    most: float,
    peak: int | None,
) -> None:
    """Append tokens to a line: that of the peak, if there is one, between brackets, and each with a
    background by its activation as a fraction of `most`."""
    # Of a character made of several tokens, the first has the text.
    marked = None if peak is None else max(n for n in range(peak + 1) if texts[n] or n == 0)
    for number, (text, activation) in enumerate(zip(texts, activations, strict=True)):
        heat = min(activation / most, 1) if most else 0
        style = _HEAT[math.ceil(heat * (len(_HEAT) - 1))]
        if number == marked:
            line.append(f"⟦{visible(text)}⟧", f"bold {style}")
        else:
            line.append(visible(text), style)
