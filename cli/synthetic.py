"""The verb `synthetic eval`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sae.common.paths import FilePath
from ..sae.common.validation import require_tuple
from ..sae.common.wording import count, counted
from ..training.config import ActivationName
from ..training.evaluation.ground_truth.config import GroundTruthSettings
from ..training.evaluation.ground_truth.recipes import plain_autoencoder
from .console import Report, Terminal, table

if TYPE_CHECKING:
    from rich.console import RenderableType

_MEASURES = {
    "f1": ("F1", "of each latent firing for its nearest feature"),
    "precision": ("precision", "of rows where it fires, those with the feature"),
    "recall": ("recall", "of rows with the feature, those where it fires"),
    "mcc": ("MCC", "mean |cosine| of latents and features, one to one"),
    "uniqueness": ("uniqueness", "different nearest features, for each latent"),
    "explained_variance": ("explained variance", "1 - FVU"),
    "l0": ("L0", "latents active on a row"),
    "dead_fraction": ("dead", "never fired on the rows measured"),
}
_PUBLISHED = {
    "f1": "F1",
    "mcc": "MCC",
    "uniqueness": "uniqueness",
    "explained_variance": "explained variance",
}


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions:
    """Which kind of autoencoder to train, and on what."""

    activation: ActivationName = "topk"
    """The autoencoder's activation, with the defaults of `sparsteer train`."""

    prefixes: tuple[float, ...] = ()
    """Nested dictionaries (Matryoshka): rising fractions of the latents below 1, or numbers of
    them, that must reconstruct alone, too. Those of the published rows are 0.03125 0.125 0.5."""

    settings: GroundTruthSettings
    """At which size."""

    out: FilePath | None = None
    """JSON file of results, written after each seed; the same command goes on with the next one."""

    def __post_init__(self) -> None:
        require_tuple("prefixes", self.prefixes)


def run(options: SyntheticOptions, terminal: Terminal) -> Report:
    """Train autoencoders on made-up activations, and say how many of their features they recover.

    The benchmark is SynthSAEBench (arXiv 2602.14687), made here from its published settings. At the
    size 16k its published figures are shown beside.
    """
    sae = plain_autoencoder(options.activation, options.prefixes, options.settings)
    from ..training.evaluation.ground_truth.benchmark import ground_truth

    with terminal.progress("training and measuring", "rows") as update:
        results = ground_truth(
            sae,
            settings=options.settings,
            out=None if options.out is None else Path(options.out),
            say=terminal.say,
            progress=lambda done, total: update(done, total, ""),
        )
    written = [] if options.out is None else [f"written: {options.out}"]
    return Report(
        values=results,
        shown=[*_shown(results, options.activation), *_published(results), *written],
    )


def _shown(results: dict[str, Any], activation: str) -> "list[RenderableType]":
    features, sae, trainer = results["features"], results["sae"], results["trainer"]
    nested = f", prefixes {', '.join(map(count, sae['prefixes']))}" if "prefixes" in sae else ""
    n_seeds, active = len(results["seeds"]), results["measures"]["true_l0"]["mean"]
    rows = [
        (name, _with_interval(results["measures"][key]), meaning)
        for key, (name, meaning) in _MEASURES.items()
    ]
    return [
        f"{activation}{nested}: {counted(sae['n_latents'], 'latent')}, trained on "
        f"{count(trainer['tokens'])} rows with {count(features['n_features'])} features in "
        f"{count(features['d_model'])} dimensions, {active:.1f} of them active; measured on "
        f"{count(results['rows'])} others:",
        table(*rows),
        f"MCC of random directions: about {results['chance_mcc']:.3f}",
        f"in brackets the 95% interval of the mean over {n_seeds} seeds"
        if n_seeds > 1
        else "of one seed no interval is known; give --seeds 3 for one",
    ]


def _with_interval(of_seeds: dict[str, float | None]) -> str:
    mean, low, high = of_seeds["mean"], of_seeds["low"], of_seeds["high"]
    if low is None or high is None:
        return f"{mean:.4f}"
    return f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def _published(results: dict[str, Any]) -> "list[RenderableType]":
    from rich.table import Table

    published = results["published"]
    if published is None:
        return ["nothing is published at this size; --size 16k is the published one"]
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("published")
    for heading in ("L0", *_PUBLISHED.values()):
        grid.add_column(heading, justify="right", no_wrap=True)
    for row in published["rows"]:
        figures = [f"{row[key][0]:.4f} ± {row[key][1]:.4f}" for key in _PUBLISHED]
        name = row["architecture"]
        mark = " (this kind)" if name == published["same_kind"] else ""
        grid.add_row(f"{name}{mark}", str(row["l0"]), *figures)
    return [
        f"as published, {published['source']}:",
        grid,
        "what differs from the published setup:",
        *(f"- {difference}" for difference in published["differences"]),
    ]
