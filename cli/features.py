"""The verbs `features build`, `features show`, `features list` and `features find`."""

import time
from typing import TYPE_CHECKING, Any

from ..sae.common.text import visible
from ..sae.common.wording import count, counted, duration, percent
from ..steering.features.config import BuildConfig, FindConfig, ListConfig, ShowConfig
from .console import Report, Terminal, next_command, table
from .feature_page import examples_of, statistics_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..steering.features.index import FeatureIndex

_PEAK_TEXTS = 4


def build(config: BuildConfig, terminal: Terminal) -> Report:
    """Build the feature index: examples, statistics, tokens and neighbors of every latent.

    RUN is the folder of a run. An index that is there already is replaced.
    """
    from ..steering.features.build import build_index
    from ..steering.features.index import FeatureIndex
    from ..steering.features.listing import ranked

    started = time.perf_counter()
    with terminal.progress("indexing", "rows") as update:
        values = build_index(
            config, say=terminal.say, report=lambda done, total, _: update(done, total, "")
        )
    seconds = time.perf_counter() - started
    first = ranked(FeatureIndex(values["index"]), "interest")[:1]
    rows = (
        ("rows", count(values["rows"]), f"activations of {values['model']} at {values['site']}"),
        ("outliers", count(values["outliers"]), "rows more, left out for their outlying norm"),
        ("latents", count(values["n_latents"]), f"{count(values['never_fired'])} never fired"),
        ("examples", count(values["examples"]), "top ones of each latent, and as many random ones"),
        ("time", duration(seconds), "of this command"),
    )
    shown = (
        f"the feature index is in {values['index']}",
        table(*rows),
        next_command("features", "list", config.run),
        *(next_command("features", "show", config.run, str(number)) for number in first),
    )
    return Report(values={**values, "seconds": seconds}, shown=shown)


def show(config: ShowConfig, terminal: Terminal) -> Report:
    """Show a feature: statistics, positive and negative logits, and places where it fires.

    RUN is the folder of a run with a feature index, FEATURE the number of a latent. The token on
    which the feature fires stands between double brackets; of a near miss the one on which it
    nearly did.
    """
    from ..steering.features.index import FeatureIndex
    from ..steering.labels.store import machine_labels

    index = FeatureIndex.of_run(config.run)
    machine = machine_labels(index.path.parent, sae=index.manifest["sae"]).get(config.feature)
    feature, rows = index.feature(config.feature), counted(index.manifest["rows"], "row")
    shown = (
        f"feature {feature.feature} of {config.run}, on {rows} at {index.manifest['site']}",
        *([f"machine label: {machine.shown}"] if machine else []),
        f"activations are in {index.manifest['unit']}",
        *statistics_of(feature),
        *examples_of(feature, config.examples, index.manifest),
    )
    sources = index.manifest.get("sources")
    values = {
        **feature.to_dict(),
        "unit": index.manifest["unit"],
        **({"sources": sources} if sources else {}),
        "machine_label": machine.to_dict() if machine else None,
    }
    return Report(values=values, shown=shown)


def list_all(config: ListConfig, terminal: Terminal) -> Report:
    """List the features of a run by interest, activation or density, with the labels of its picks.

    RUN is the folder of a run with a feature index. Features that never fired are left out.
    """
    from ..steering.features.listing import list_features

    values = list_features(config)
    shown = (
        f"{count(len(values['features']))} of {count(values['n_latents'])} features of {config.run}"
        f" by {config.by}, on {counted(values['rows'], 'row')}; {count(values['never_fired'])} "
        "never fired",
        f"activations are in {values['unit']}",
        _listed_table(values["features"]),
        *(
            next_command("features", "show", config.run, str(feature["feature"]))
            for feature in values["features"][:1]
        ),
    )
    return Report(values=values, shown=shown)


def find(config: FindConfig, terminal: Terminal) -> Report:
    """Rank the features that tell two files of texts apart.

    RUN is the folder of a run. If it has a feature index, the tokens on which each feature fires
    most are shown beside it.
    """
    from ..steering.features.index import FeatureIndex, has_index
    from ..steering.features.search import find as find_in_files

    # Before the work, so that an index of another autoencoder is found at once.
    index = FeatureIndex.of_run(config.run) if has_index(config.run) else None
    values = find_in_files(config, say=terminal.say)
    best = values["features"][0]["feature"] if values["features"] else "N"
    shown = (
        f"features of {config.run} by {config.rank_by}, of {count(values['considered'])} that fire "
        f"in at least {percent(config.min_firing)} of the positive texts:",
        _found_table(values, index),
        *_found_context(values),
        next_command("features", "show", config.run, str(best)),
    )
    return Report(values=values, shown=shown)


def _listed_table(features: list[dict[str, Any]]) -> "RenderableType":
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("feature", "interest", "density", "max", "p99", "median", "mean"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("fires most on")
    grid.add_column("label")
    for feature in features:
        activations = (feature[f"{name}_activation"] for name in ("max", "p99", "median", "mean"))
        grid.add_row(
            str(feature["feature"]),
            f"{feature['interest']:.2f}",
            f"{100 * feature['density']:.4g}%",
            *(f"{activation:.4g}" for activation in activations),
            " ".join(f"'{visible(peak)}'" for peak in feature["peaks"]),
            _label(feature),
        )
    return grid


def _label(feature: dict[str, Any]) -> str:
    """The label that a person gave, else the machine's, marked as such, with its score."""
    pick = feature["pick"]
    if pick and pick["label"]:
        by_machine = " (by a machine)" if pick["label_source"] == "machine" else ""
        return visible(pick["label"]) + by_machine
    machine = feature["machine_label"]
    if not machine:
        return ""
    score = machine["detection"]
    shown = f"{score['balanced_accuracy']:.2f}" if score else "not scored"
    return f"(machine, {shown}) {visible(machine['label'])}"


def _found_table(values: dict[str, Any], index: "FeatureIndex | None") -> "RenderableType":
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    names = ("feature", "AUROC mean", "AUROC max", "difference", "fires in +", "fires in -")
    for name in names:
        grid.add_column(name, justify="right", no_wrap=True)
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
            " ".join(f"'{visible(peak)}'" for peak in peaks),
        )
    return grid


def _found_context(values: dict[str, Any]) -> list[str]:
    """What the ranking is to be held against, and what was not read."""
    positive, negative = values["positive"], values["negative"]
    lines = [
        f"texts: {count(positive['texts'])} positive of {positive['mean_length']:.1f} tokens and "
        f"{count(negative['texts'])} negative of {negative['mean_length']:.1f} on average",
        f"length alone: AUROC {values['length_auroc']:.3f} (0.5 tells nothing; far from it, take "
        "texts of like lengths)",
        f"chance alone: best {values['rank_by']} {values['chance']:.3f} with the labels shuffled",
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
