"""The plots of measured autoencoders, as SVG files in their run folders."""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..sae.errors import InputError
from ..sae.files import atomic_file
from . import plots
from .run import RunFolder


def require_matplotlib() -> None:
    """Raise InputError if plots cannot be drawn."""
    try:
        import_module("matplotlib")
    except ImportError:
        raise InputError(
            "plots need matplotlib, which is not installed; pip install 'sparsteer[plots]'"
        ) from None


def write_plots(results: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write the plots of what `evaluate_all` found, and give their paths.

    Into `plots/` of each run: fvu.svg and l0.svg over training (where metrics.jsonl is), and
    density.svg. Of several autoencoders also fvu-against-l0.svg, into the folder that they share.
    An autoencoder that lies in no run has its density beside it, in `NAME-plots/`.
    """
    folders = [_run_of(Path(result["sae"])) for result in results]
    looks = plots.looks(short_names(folders))
    curves = [
        (look, RunFolder(folder).curve()) for look, folder in zip(looks, folders, strict=True)
    ]
    written: list[Path] = []
    for result, folder, (look, points) in zip(results, folders, curves, strict=True):
        drawings = {"density": plots.density(look, result["density_histogram"], result["rows"])}
        if points:
            drawings["fvu"] = plots.fvu_curves([(look, points)])
            drawings["l0"] = plots.l0_curves([(look, points)], result["d_model"])
        is_run = (folder / "config.yaml").exists()
        target = folder / "plots" if is_run else folder.with_name(f"{folder.name}-plots")
        written += [_write(target / f"{name}.svg", one) for name, one in drawings.items()]
    if len(results) > 1:
        together = plots.fvu_against_l0(curves, results, max(r["d_model"] for r in results))
        shared = Path(os.path.commonpath([folder.absolute() for folder in folders]))
        written.append(_write(shared / "fvu-against-l0.svg", together))
    return written


def short_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; whole paths where two have the same."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _run_of(sae: Path) -> Path:
    """The run folder that an autoencoder lies in, else the autoencoder's own."""
    return sae.parent if sae.name == "sae" and (sae.parent / "config.yaml").exists() else sae


def _write(path: Path, drawing: plots.Drawing) -> Path:
    with atomic_file(path) as temporary:
        temporary.write_text(drawing.svg, encoding="utf-8")
    return path
