"""The plots and pages of measured autoencoders, as files in their run folders."""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ...sae.common.errors import InputError
from ...sae.common.files import atomic_file
from ...sae.common.locks import PATIENCE, hold, tidy
from ...sae.common.shipped import is_shipped
from ...training.run import RunFolder
from . import plots
from .inline import FIRST, PAGE
from .page import GENERATOR
from .run_page import comparison_page, run_page

_PLOTS = ("fvu", "l0", "density", "zf")
_MADE_HERE = {
    ".html": f'<meta name="generator" content="{GENERATOR}">',
    ".svg": f"<dc:title>{GENERATOR}</dc:title>",
}
"""What stands in the files that are written here, by their ending."""


def require_matplotlib() -> None:
    """Raise InputError if plots cannot be drawn."""
    try:
        import_module("matplotlib")
    except ImportError:
        raise InputError(
            "plots need matplotlib, which is not installed; pip install 'sparsteer[plots]'"
        ) from None


def require_no_other(saes: Sequence[str], *, force: bool) -> None:
    """Raise InputError if a file that `write_plots` would write is there and is not of its making,
    unless `force` says to replace it; also where it would write into a dictionary that comes with
    this package."""
    if shipped := [sae for sae in saes if is_shipped(sae)]:
        raise InputError(
            f"{shipped[0]} comes with sparsteer, and nothing is written into it; leave --plots out,"
            f" or measure a copy: sparsteer export {shipped[0]} --format sparsteer --out DIR"
        )
    if force:
        return
    folders = [_run_of(Path(sae)) for sae in saes]
    paths = [_plots_of(folder) / f"{name}.svg" for folder in folders for name in _PLOTS]
    paths += [folder / "report.html" for folder in folders if _is_run(folder)]
    if len(folders) > 1:
        paths += [_shared(folders) / name for name in ("fvu-against-l0.svg", "report.html")]
    for path in paths:
        if path.exists() and not is_made_here(path):
            raise InputError(
                f"{path} exists and is not of sparsteer's making; move it elsewhere, or give "
                "--force to replace it"
            )


def is_made_here(path: Path) -> bool:
    """Whether a page or a plot says that sparsteer made it."""
    return path.is_file() and _MADE_HERE[path.suffix].encode() in path.read_bytes()


def write_plots(results: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write the plots and pages of what `evaluate_all` found, and give their paths, pages last.

    Into `plots/` of each run: fvu.svg and l0.svg over training (where metrics.jsonl is), and
    density.svg and zf.svg; beside it `report.html`, the page of the run. Of several autoencoders
    also fvu-against-l0.svg and a report.html that compares them, into the folder that holds them or
    their folders; beside the first of them where there is none.
    An autoencoder that lies in no run has those two beside it, in `NAME-plots/`, and no page.
    """
    folders = [_run_of(Path(result["sae"])) for result in results]
    styles = plots.styles(short_names(folders))
    curves = [
        (style, RunFolder(folder).curve()) for style, folder in zip(styles, folders, strict=True)
    ]
    written: list[Path] = []
    pages: list[Path] = []
    for result, folder, (style, points) in zip(results, folders, curves, strict=True):
        drawings = _drawings(result, style, points, plots.PAPER)
        target = _plots_of(folder)
        written += [_write(target / f"{name}.svg", one.svg) for name, one in drawings.items()]
        if _is_run(folder):
            tidy(folder)
            own = plots.PlotStyle(name=style.name, color=FIRST)
            inlined = _drawings(result, own, points, PAGE)
            text = run_page(RunFolder(folder), result, inlined)
            pages.append(_write(folder / "report.html", text))
    if len(results) > 1:
        width = max(r["d_model"] for r in results)
        shared = _shared(folders)
        together = plots.fvu_against_l0(curves, results, width)
        written.append(_write(shared / "fvu-against-l0.svg", together.svg))
        links = [
            os.path.relpath(f, shared) if f / "report.html" in pages else None for f in folders
        ]
        inlined = plots.fvu_against_l0(curves, results, width, PAGE)
        names = [style.name for style in styles]
        text = comparison_page(names, results, links, inlined)
        pages.append(_write(shared / "report.html", text))
    return [*written, *pages]


def _drawings(
    result: Mapping[str, Any], style: plots.PlotStyle, points: plots.Points, palette: plots.Palette
) -> dict[str, plots.Drawing]:
    histogram, rows = result["density_histogram"], result["rows"]
    drawings = {
        "density": plots.density(style, histogram, rows, palette),
        "zf": plots.zf(style, result["norms"], palette),
    }
    if points:
        drawings["fvu"] = plots.fvu_curves([(style, points)], palette)
        drawings["l0"] = plots.l0_curves([(style, points)], result["d_model"], palette)
    return drawings


def short_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; whole paths where two have the same."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


def _plots_of(folder: Path) -> Path:
    return folder / "plots" if _is_run(folder) else folder.with_name(f"{folder.name}-plots")


def _run_of(sae: Path) -> Path:
    """The run folder that an autoencoder lies in, else the autoencoder's own."""
    return sae.parent if sae.name == "sae" and _is_run(sae.parent) else sae


def _shared(folders: Sequence[Path]) -> Path:
    paths = [folder.absolute() for folder in folders]
    shared = Path(os.path.commonpath([path.parent for path in paths]))
    near = all(len(path.relative_to(shared).parts) <= 2 for path in paths)
    return shared if near else paths[0].parent  # never in / or somebody's home


def _write(path: Path, text: str) -> Path:
    remedy = "give the same command again when it has ended"
    with hold(path, patience=PATIENCE, remedy=remedy), atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
