"""Write features of a run into a folder, in the layout that is asked for."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...sae.common.errors import InputError
from ...sae.common.files import atomic_folder, read_json, same_content, write_json
from ...sae.common.locks import hold
from .chosen import Chosen
from .config import Layout, ShareConfig
from .dashboards import write_dashboards
from .neuronpedia import write_neuronpedia
from .static_page import write_static_page

MARK = "sparsteer-export.json"
"""The file by which a folder of ours is known again."""

_FORMAT = "sparsteer-shared-features"

_Writer = Callable[[Path, Chosen, ShareConfig, Callable[[int, int, str], None]], None]

_WRITERS: dict[Layout, _Writer] = {
    "static": write_static_page,
    "neuronpedia": write_neuronpedia,
    "saedashboard": write_dashboards,
}


def export_features(
    config: ShareConfig, *, report: Callable[[int, int, str], None] = lambda done, total, more: None
) -> dict[str, Any]:
    """Write the features; the folder appears whole, or stays as it was.

    Args:
        config: which features, where to and in which layout.
        report: told of progress.

    Returns:
        run, folder, format, chosen (how), features (their numbers), files, bytes, and opens: the
        page, or the folder.

    Raises:
        InputError: no such run, index or feature, or something else is in the folder.
    """
    chosen = Chosen(config)
    folder = Path(config.static).resolve()
    if folder in (chosen.run.resolve(), *chosen.run.resolve().parents):
        raise InputError(
            f"static is {config.static}, where the run itself is; give another folder",
            field="static",
        )
    _require_free(folder, config)  # a lock cannot be made beside everything
    with hold(folder, remedy="wait for it, or give another --static"):
        _require_free(folder, config)
        with atomic_folder(folder, replace=True) as temporary:
            _WRITERS[config.format](temporary, chosen, config, report)
            write_json(
                temporary / MARK,
                {
                    "format": _FORMAT,
                    "version": 1,
                    "layout": config.format,
                    "sae": chosen.index.manifest["sae"],
                    "features": len(chosen.numbers),
                },
            )
            _require_replaceable(folder, temporary, config)
    files = [path for path in folder.rglob("*") if path.is_file()]
    page = folder / "index.html"
    return {
        "run": config.run,
        "folder": str(folder),
        "format": config.format,
        "chosen": chosen.why,
        "features": chosen.numbers,
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "opens": str(page if page.exists() else folder),
    }


def _require_free(folder: Path, config: ShareConfig) -> None:
    """Raise InputError, before any work, if what is there is surely not to be replaced."""
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not _is_ours(folder):
        raise InputError(
            f"static is {config.static}, where something else is already; give another folder",
            field="static",
        )


def _require_replaceable(folder: Path, new: Path, config: ShareConfig) -> None:
    """Raise InputError if another export is there and `force` is not given."""
    if config.force or not folder.is_dir() or not any(folder.iterdir()):
        return
    if not _same_tree(folder, new):
        raise InputError(
            f"static is {config.static}, which holds another export; give --force to replace it, "
            "or another folder",
            field="static",
        )


def _is_ours(folder: Path) -> bool:
    try:
        return read_json(folder / MARK, "export").get("format") == _FORMAT
    except InputError:
        return False


def _same_tree(one: Path, other: Path) -> bool:
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    return names == {
        path.relative_to(other) for path in other.rglob("*") if path.is_file()
    } and all(same_content(one / name, other / name) for name in names)
