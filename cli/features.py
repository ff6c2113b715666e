"""The verbs `features build`, `features show` and `features list`."""

import time
from typing import TYPE_CHECKING, Any

from ..sae.common.text import visible
from ..sae.common.wording import count, counted, duration
from ..steering.features.config import BuildConfig, ListConfig, ShowConfig
from .console import Report, Terminal, next_command, table
from .feature_page import examples_of, statistics_of

if TYPE_CHECKING:
    from rich.console import RenderableType


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
