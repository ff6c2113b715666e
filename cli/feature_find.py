"""The verb `features find`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..sae.common.text import visible
from ..sae.common.wording import count, counted, percent
from ..steering.features.find_config import FindConfig
from .console import Report, Terminal, next_command, table
from .feature_page import heated

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from ..steering.features.index import FeatureIndex

_PEAK_TEXTS = 4
_OWN_TOKENS = 4
_DUPLICATES = 8
_TOKENS_BEFORE, _TOKENS_AFTER = 20, 6
"""Shown of a text around the token on which the feature fires most."""


def run(config: FindConfig, terminal: Terminal) -> Report:
    """Rank the features that tell two files of texts apart.

    RUN is the folder of a run. If it has a feature index, the tokens on which each feature fires
    most are shown beside it.
    """
    from ..steering.features.index import FeatureIndex, has_index
    from ..steering.features.search import find

    # Before the work, so that an index of another autoencoder is found at once.
    index = FeatureIndex.of_run(config.run) if has_index(config.run) else None
    values = find(config, say=terminal.say)
    best = values["features"][0]["feature"] if values["features"] else "N"
    shown = (
        _title(values, config),
        _table(values, index),
        *_excluded(values, config),
        *_context(values),
        *_group(values["group"], config.run),
        *_explained(values["features"]),
        next_command("features", "show", config.run, str(best)),
    )
    return Report(values=values, shown=shown)


def _title(values: dict[str, Any], config: FindConfig) -> str:
    among = (
        f"{count(values['considered'])} that fire in at least {percent(config.min_firing)} of the "
        "positive texts"
    )
    by = values["rank_by"]
    if by == values["candidates_by"]:
        return f"features of {config.run} by {by}, of {among}:"
    return (
        f"features of {config.run} by {by}, of the {count(values['outputs_measured'])} best by "
        f"{values['candidates_by']} of {among}:"
    )


def _table(values: dict[str, Any], index: "FeatureIndex | None") -> "RenderableType":
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    names = ["feature", "AUROC mean", "AUROC max", "difference", "fires in +", "fires in -"]
    with_output = values["outputs_measured"] > 0
    names += ["output", "confidence"] if with_output else []
    for name in names:
        grid.add_column(name, justify="right", no_wrap=True)
    if with_output:
        grid.add_column("own tokens")
    grid.add_column("fires most on" if index else "")
    for found in values["features"]:
        peaks = index.peak_texts(found["feature"], _PEAK_TEXTS) if index else []
        grid.add_row(
            str(found["feature"]),
            f"{found['auroc_mean']:.3f}",
            f"{found['auroc_max']:.3f}",
            f"{found['difference']:+.4g}",
            percent(found["firing_positive"]),
            percent(found["firing_negative"]),
            *(_output(found["output"]) if with_output else ()),
            _quoted(peaks),
        )
    return grid


def _output(output: dict[str, Any] | None) -> tuple[str, str, str]:
    if output is None:
        return ("\N{EN DASH}", "\N{EN DASH}", "")
    return (
        f"{output['score']:.3f}",
        f"{output['confidence_change']:+.2f}",
        _quoted(output["own_tokens"][:_OWN_TOKENS]),
    )


def _quoted(texts: Sequence[str]) -> str:
    return " ".join(f"'{visible(text)}'" for text in texts)


def _excluded(values: dict[str, Any], config: FindConfig) -> list[str]:
    lines: list[str] = []
    if values["density_excluded"]:
        limits = [
            *([f"less than {percent(config.min_density)}"] if config.min_density > 0 else []),
            *([f"more than {percent(config.max_density)}"] if config.max_density < 1 else []),
        ]
        lines.append(
            f"left out: {counted(values['density_excluded'], 'feature')} more that fire on "
            f"{' or '.join(limits)} of the rows of the index"
        )
    if duplicates := values["duplicates"]:
        named = [
            f"{one['feature']} (of {one['of']}, {one['by']} {one['value']:.2f})"
            for one in duplicates[:_DUPLICATES]
        ]
        more = len(duplicates) - len(named)
        lines.append(
            f"left out: {counted(len(duplicates), 'duplicate')} of better features: "
            + ", ".join(named)
            + (f" and {more} more" if more else "")
        )
    if values["outputs_measured"]:
        lines.append(
            "output: 1 if the model surely says one of the feature's own tokens when it is "
            "amplified; confidence: above 0 the model is less sure of the next token, in nats"
        )
    return lines


def _context(values: dict[str, Any]) -> list[str]:
    """What the ranking is to be held against, and what was not read."""
    positive, negative = values["positive"], values["negative"]
    lines = [
        f"texts: {count(positive['texts'])} positive of {positive['mean_length']:.1f} tokens and "
        f"{count(negative['texts'])} negative of {negative['mean_length']:.1f} on average",
        f"length alone: AUROC {values['length_auroc']:.3f} (0.5 tells nothing; far from it, take "
        "texts of like lengths)",
        f"chance alone: best {values['candidates_by']} {values['chance']:.3f} with the labels "
        "shuffled",
    ]
    for name, side in (("positive", positive), ("negative", negative)):
        if side["truncated"]:
            lines.append(
                f"cut: {counted(side['truncated'], f'{name} text')}; --max-length reads more"
            )
        if side["without_content"]:
            lines.append(
                f"left out: {counted(side['without_content'], f'{name} text')} without a token "
                "that counts"
            )
    return lines


def _group(group: dict[str, Any] | None, run: str) -> "list[RenderableType]":
    if group is None:
        return []
    members = [f"{one['feature']} ({one['weight']:+.2f})" for one in group["features"]]
    gain = group["gain"]
    rows = [
        (
            "group",
            f"{group['auroc']:.3f}",
            f"AUROC on {count(group['held_out_texts'])} other texts",
        ),
        ("best single", f"{group['best_auroc']:.3f}", f"feature {group['best_feature']}"),
        ("gain", f"{gain['value']:+.3f}", f"95 % from {gain['low']:+.3f} to {gain['high']:+.3f}"),
        (
            "random groups",
            f"{group['random_mean']:.3f}",
            f"of as many features, ± {group['random_deviation']:.3f}",
        ),
        (
            "shuffled labels",
            f"{group['shuffled_mean']:.3f}",
            f"± {group['shuffled_deviation']:.3f}; far from 0.5, there are too few texts",
        ),
    ]
    promoted = [str(one["feature"]) for one in group["features"] if one["weight"] > 0]
    return [
        "",
        f"a group of {counted(len(members), 'feature')} (weight) of {count(group['considered'])}, "
        f"chosen on {count(group['training_texts'])} of the texts: " + ", ".join(members),
        table(*rows),
        *([next_command("pick", run, "add", *promoted)] if promoted else []),
        "",
    ]


def _explained(features: Sequence[dict[str, Any]]) -> "list[RenderableType]":
    """The texts that decided the places of the features."""
    shown: list[RenderableType] = []
    for feature in features:
        for role, title in (("for", "speak for"), ("against", "speak against")):
            texts = [text for text in feature["texts"] if text["role"] == role]
            if texts:
                shown.append(f"texts that {title} feature {feature['feature']}:")
                shown += [_text(text) for text in texts]
    return [*shown, ""] if shown else []


def _text(text: dict[str, Any]) -> "Text":
    """A line: value, share, which text, and the tokens around the peak."""
    from rich.text import Text

    verb = "above" if text["side"] == "positive" and text["role"] == "for" else "wrong against"
    activations: Sequence[float] = text["activations"]
    most = max(activations, default=0.0)
    peak = activations.index(most) if activations else 0
    line = Text(
        f"{text['value']:8.3f}  {verb} {percent(text['share'])}, {text['side']} text "
        f"{text['number'] + 1}  "
    )
    first, end = max(0, peak - _TOKENS_BEFORE), peak + _TOKENS_AFTER + 1
    if first:
        line.append("…")
    marked = peak - first if most > 0 else None
    heated(line, text["tokens"][first:end], activations[first:end], most, marked)
    if end < len(activations) or text["truncated"]:
        line.append("…")
    return line
