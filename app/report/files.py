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
from ...training.run_places import is_run, run_of, shared_folder, short_names
from . import plots
from .fronts import fronts_of
from .inline import FIRST, PAGE
from .page import GENERATOR
from .run_page import comparison_page, run_page

_PLOTS = ("fvu", "l0", "density", "zf")
_FRONTS = ("fvu", "recovered")
_MADE_HERE = {
    ".html": f'<meta name="generator" content="{GENERATOR}">',
    ".svg": f"<dc:title>{GENERATOR}</dc:title>",
}
"""What stands in the files that are written here, by their ending."""


def require_matplotlib() -> None:
    """Raise InputError if plots cannot be drawn."""
    if not has_matplotlib():
        raise InputError(
            "plots need matplotlib, which is not installed; pip install 'sparsteer[plots]'"
        )


def has_matplotlib() -> bool:
    """Whether plots can be drawn."""
    try:
        import_module("matplotlib")
    except ImportError:
        return False
    return True


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
    folders = [run_of(Path(sae)) for sae in saes]
    paths = [_plots_of(folder) / f"{name}.svg" for folder in folders for name in _PLOTS]
    paths += [folder / "report.html" for folder in folders if is_run(folder)]
    if len(folders) > 1:
        names = ["fvu-against-l0.svg", *(f"front-{name}.svg" for name in _FRONTS), "report.html"]
        paths += [shared_folder(folders) / name for name in names]
    for path in paths:
        require_page_replaceable(path, remedy="give --force to replace it")


def is_made_here(path: Path) -> bool:
    """Whether a page or a plot says that sparsteer made it."""
    return path.is_file() and _MADE_HERE[path.suffix].encode() in path.read_bytes()


def require_page_replaceable(
    path: Path, *, force: bool = False, remedy: str = "give another --out"
) -> None:
    """Raise InputError if a page at `path` would replace a file that sparsteer did not make.

    Args:
        path: where the page goes.
        force: replace whatever is there.
        remedy: what the sentence offers besides moving the file.
    """
    if path.exists() and not force and not is_made_here(path):
        raise InputError(
            f"{path} exists and is not of sparsteer's making; move it elsewhere, or {remedy}"
        )


def write_plots(results: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write the plots and pages of what `evaluate_all` found, and give their paths, pages last.

    Into `plots/` of each run: fvu.svg and l0.svg over training (where metrics.jsonl is), and
    density.svg and zf.svg; beside it `report.html`, the page of the run. Of several autoencoders
    also fvu-against-l0.svg, front-fvu.svg, front-recovered.svg where the language model was run,
    and a report.html that compares them, into the folder that holds them or their folders; beside
    the first of them where there is none.
    An autoencoder that lies in no run has those two beside it, in `NAME-plots/`, and no page.
    """
    folders = [run_of(Path(result["sae"])) for result in results]
    styles = plots.styles(short_names(folders))
    curves = [
        (style, RunFolder(folder).curve()) for style, folder in zip(styles, folders, strict=True)
    ]
    written: list[Path] = []
    pages: list[Path] = []
    for result, folder, (style, points) in zip(results, folders, curves, strict=True):
        drawings = _drawings(result, style, points, plots.PAPER)
        target = _plots_of(folder)
        written += [write_page(target / f"{name}.svg", one.svg) for name, one in drawings.items()]
        if is_run(folder):
            tidy(folder)
            own = plots.PlotStyle(name=style.name, color=FIRST)
            inlined = _drawings(result, own, points, PAGE)
            text = run_page(RunFolder(folder), result, inlined)
            pages.append(write_page(folder / "report.html", text))
    if len(results) > 1:
        width = max(r["d_model"] for r in results)
        shared = shared_folder(folders)
        together = plots.fvu_against_l0(curves, results, width)
        written.append(write_page(shared / "fvu-against-l0.svg", together.svg))
        for name, drawing in fronts_of(results).items():
            written.append(write_page(shared / f"front-{name}.svg", drawing.svg))
        links = [
            os.path.relpath(f, shared) if f / "report.html" in pages else None for f in folders
        ]
        inlined = plots.fvu_against_l0(curves, results, width, PAGE)
        names = [style.name for style in styles]
        text = comparison_page(names, results, links, inlined, fronts_of(results, PAGE))
        pages.append(write_page(shared / "report.html", text))
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


def _plots_of(folder: Path) -> Path:
    return folder / "plots" if is_run(folder) else folder.with_name(f"{folder.name}-plots")


def write_page(path: Path, text: str) -> Path:
    """Write a page or a plot, whole; give its path."""
    remedy = "give the same command again when it has ended"
    with hold(path, patience=PATIENCE, remedy=remedy), atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
