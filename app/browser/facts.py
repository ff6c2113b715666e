"""What a run says of itself: autoencoder, language model, data and held-out measures.

A run that was trained here has settings, metrics and an environment; an imported autoencoder has
what its files and its check said, and a dictionary that ships what its evaluation printed. What is
not known is left out.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...sae.common.checksums import read_checked_json
from ...sae.common.errors import InputError
from ...sae.common.files import read_json
from ...sae.common.shipped import RECORD as DICTIONARY
from ...sae.common.shipped import shipped_folder
from ...sae.common.wording import count, counted, duration, percent
from ...sae.interop.importing import RECORD
from ...steering.features.index import FeatureIndex
from ...steering.features.shipped_run import name_of_shipped
from ...training.run import RunFolder
from ..report.measures import Measure, measures, of_rows
from .numbers import rate

_REMEDY = "restore it, or train or import again"
_COPY = "install sparsteer again"

_CHECKED = ("fvu", "explained_variance", "l0", "dead_fraction")

_WHY = {
    "FVU": "Fraction of the variance that the autoencoder misses on rows that it was not trained "
    "on: 0 is perfect, 1 is as bad as always saying the mean. Lower is better at the same L0.",
    "explained": "The rest of the variance, 1 - FVU.",
    "L0": "Latents that are active on a row, on average. Fewer are easier to read, and explain "
    "less.",
    "dead": "Latents that fired on none of the held-out rows. They hold no meaning, unless they "
    "are very rare.",
    "dense": "Latents that fired on more than a tenth of the held-out rows. Such latents rarely "
    "stand for one thing.",
}


@dataclass(frozen=True)
class Fact:
    """One line about the run."""

    name: str
    value: str
    why: str
    """What it means, for someone who has never seen it."""


def autoencoder_facts(run: Path, index: FeatureIndex) -> list[Fact]:
    """What kind of autoencoder it is, and where in which language model it belongs."""
    config = read_checked_json(run / "sae" / "config.json", "autoencoder's config", remedy=_REMEDY)
    origin = cast(dict[str, Any], config.get("origin") or {})
    target = origin.get("target_site")
    width, n_latents = config["d_model"], config["n_latents"]
    facts = [
        Fact(
            "kind",
            f"{config['activation']} {'transcoder' if target else 'autoencoder'}",
            "The activation decides which latents are kept on a row. An autoencoder rewrites what "
            "it reads; a transcoder predicts what another place of the model will hold.",
        ),
        Fact(
            "latents",
            count(n_latents),
            f"Features in the dictionary, {n_latents / width:.3g} for each of the "
            f"{count(width)} dimensions of the activation. Each has a page here.",
        ),
    ]
    if "k" in config:
        facts.append(Fact("k", count(config["k"]), "Latents that are kept on a row."))
    facts += [
        Fact(
            "language model",
            str(index.manifest.get("model", origin.get("model", ""))),
            "The model whose activations the autoencoder rewrites, and which is steered with it.",
        ),
        Fact(
            "site",
            index.manifest["site"] + (f" \u2192 {target}" if target else ""),
            "The place in the language model where activations are read and edited; the number is "
            "the layer, from 0.",
        ),
    ]
    return facts


def data_facts(run: Path, index: FeatureIndex) -> list[Fact]:
    """What it was trained on, and what the feature index read."""
    config = read_checked_json(run / "sae" / "config.json", "autoencoder's config", remedy=_REMEDY)
    origin = cast(dict[str, Any], config.get("origin") or {})
    facts: list[Fact] = []
    if origin.get("dataset"):
        facts.append(
            Fact("texts", str(origin["dataset"]), "The corpus that the language model read.")
        )
    if origin.get("context_length"):
        facts.append(
            Fact(
                "context",
                counted(origin["context_length"], "token"),
                "Tokens that the language model saw at once.",
            )
        )
    summary = _summary(run)
    if summary:
        facts.append(
            Fact(
                "training",
                f"{counted(summary['tokens'], 'row')} in {duration(summary['seconds'])}",
                "Activations that the autoencoder was trained on, one for each token.",
            )
        )
    rows, outliers = index.manifest["rows"], index.manifest.get("outliers", 0)
    facts.append(
        Fact(
            "index",
            counted(rows, "row"),
            "Activations that the feature index read: every density and every example on these "
            f"pages is of them. {counted(outliers, 'row')} of an outlying norm, where the model "
            "parks attention, were left out.",
        )
    )
    return facts


def held_out_facts(run: Path) -> list[Fact]:
    """How well it rewrites rows that it was not trained on; of an import, rows of its check.

    Raises:
        InputError: the run's metrics, the record of its import or the dictionary that ships are
            damaged.
    """
    shipped = name_of_shipped(run)
    if shipped is not None:
        return [
            Fact(name, value, _WHY.get(name, how))
            for name, value, how in _evaluation_of_shipped(shipped)
        ]
    summary = _summary(run)
    if summary:
        return [
            Fact(name, value, _WHY.get(name, how))
            for name, value, how in of_rows(summary["held_out"])
        ]
    checked = _check_of_import(run)
    if not checked:
        return []
    shown = {
        "FVU": f"{checked['fvu']:.4f}",
        "explained": percent(checked["explained_variance"]),
        "L0": f"{checked['l0']:.1f}",
        "dead": percent(checked["dead_fraction"]),
    }
    return [Fact(name, value, _WHY[name]) for name, value in shown.items()]


def index_facts(index: FeatureIndex) -> list[Fact]:
    """How many latents fire, and how often."""
    density = index.statistics["density"]
    fired = density > 0
    n_fired = int(fired.sum())
    dense = int((density > 0.1).sum())
    middle = float(sorted(density[fired].tolist())[n_fired // 2]) if n_fired else 0.0
    return [
        Fact(
            "ever fired",
            f"{count(n_fired)} ({percent(n_fired / index.n_latents)})",
            "Latents that fired at least once in the rows that the index read. The others have no "
            "example to show.",
        ),
        Fact(
            "usual density",
            rate(middle),
            "The median, over the latents that fired, of the fraction of rows on which one fires.",
        ),
        Fact(
            "dense",
            counted(dense, "latent"),
            "Latents that fire on more than a tenth of the rows; they rarely stand for one thing.",
        ),
    ]


def _summary(run: Path) -> dict[str, Any] | None:
    """The end of the training; None if it was not here or has not ended."""
    lines = RunFolder(run).metrics()
    return lines[-1].get("summary") if lines else None


def _evaluation_of_shipped(name: str) -> list[Measure]:
    """The first evaluation of a dictionary that ships, which is on held-out text of its own
    sources."""
    folder = shipped_folder(name)
    record = read_checked_json(folder / DICTIONARY, "dictionary's record", remedy=_COPY)
    for file in record.get("evaluations", {}).values():
        found = read_json(folder / file, "evaluation")
        if "fvu" in found:
            return measures(found)
    return []


def _check_of_import(run: Path) -> dict[str, float]:
    """What the check of an import found; empty if there was none."""
    path = run / RECORD
    if not path.is_file():
        return {}
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        checked: Any = record["check"] or {}
        if checked:
            checked = {name: float(checked[name]) for name in _CHECKED}
        return checked
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); {_REMEDY}") from None
