"""The verb `features search`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..sae.common.text import visible
from ..sae.common.wording import count, counted, percent
from ..steering.features.config import SearchConfig
from .console import Report, Terminal, next_command

if TYPE_CHECKING:
    from rich.console import RenderableType

_FIRINGS = 4

_COLUMNS: dict[str, tuple[str, ...]] = {
    "text": ("score", "share", "density"),
    "token": ("on it", "share", "density"),
    "logit": ("place", "logit", "density"),
    "label": ("density",),
    "observable": ("effect", "cosine", "attribution", "density"),
    "near": ("cosine", "density"),
}
"""Beside the number of the feature, its label and its tokens."""


def run(config: SearchConfig, terminal: Terminal) -> Report:
    """Search features by a text, a token, a label, what they make the model say, or a direction.

    RUN is the folder of a run with a feature index. Give one of --text, --token, --logit, --label,
    --observable and --near. A text and an observable need the language model, the others only the
    index.
    """
    from ..steering.features.searching import search_features

    values = search_features(config, say=terminal.say)
    features = values["features"]
    shown: list[RenderableType] = [_title(values, config)]
    if features:
        shown += [_table(values["by"], features), *_context(values, config)]
        first = str(features[0]["feature"])
        shown.append(next_command("features", "show", config.run, first))
    else:
        shown += _context(values, config)
    return Report(values=values, shown=shown)


def _title(values: dict[str, Any], config: SearchConfig) -> str:
    found = counted(len(values["features"]), "feature")
    query = visible(str(values["query"]))
    query = query if len(query) <= 60 else f"{query[:59]}…"
    what = {
        "text": f"fire in the text '{query}', by share of their own largest activation x rarity:",
        "token": f"fire most on '{query}', by how many of their top examples are on it:",
        "logit": f"raise the logit of '{query}' most:",
        "label": f"have '{query}' in label or note:",
        "observable": f"move '{query}' most, in logits for an activation of 1, to first order:",
        "near": f"have the decoder directions most similar to that of feature {query}:",
    }
    verb = what[values["by"]]
    if not values["features"]:
        return f"no features of {config.run} {verb.rstrip(':')}"
    return f"{found} of {config.run} that {verb}"


def _table(by: str, features: Sequence[dict[str, Any]]) -> "RenderableType":
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("feature", *_COLUMNS[by]):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("fires here on" if by == "text" else "fires most on")
    grid.add_column("label")
    for feature in features:
        texts = feature["peaks"]
        if by == "text":
            texts = [firing["text"] for firing in feature["firings"][:_FIRINGS]]
        machine = " (by a machine)" if feature["label_source"] == "machine" else ""
        grid.add_row(
            str(feature["feature"]),
            *(_cell(name, feature) for name in _COLUMNS[by]),
            " ".join(f"'{visible(text)}'" for text in texts),
            visible(feature["label"]) + machine,
        )
    return grid


def _cell(column: str, feature: dict[str, Any]) -> str:
    match column:
        case "share":
            return percent(feature["share"])
        case "density":
            return f"{100 * feature['density']:.3g}%"
        case "on it":
            return f"{feature['examples']}/{feature['of']}"
        case "logit":
            return f"{feature['logit']:+.2f}"
        case "place":
            return str(feature["place"])
        case _:
            return f"{feature[column]:.3f}"


def _context(values: dict[str, Any], config: SearchConfig) -> list[str]:
    """What a search by text left out; what chance gives in one by observable."""
    if values["by"] == "observable":
        return [
            f"of a random direction the largest cosine with any feature is about "
            f"{values['chance_cosine']:.3f}; gradients are the mean over "
            f"{counted(values['n_prompts'], 'prompt')}"
        ]
    if values["by"] != "text":
        return []
    lines: list[str] = []
    if values["too_dense"]:
        lines.append(
            f"left out: {counted(values['too_dense'], 'feature')} of {count(values['firing'])} "
            f"that fire here, which fire on more than {percent(config.max_density)} of all tokens "
            "(--max-density)"
        )
    if values["unknown"]:
        lines.append(
            f"left out: {counted(values['unknown'], 'feature')} that never fired in the index"
        )
    if values["truncated"]:
        lines.append("only the beginning of the text was read; --max-length reads more")
    return lines
