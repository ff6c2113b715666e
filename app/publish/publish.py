"""Publish a run: write the folder that the hub is to have, and push it if that is asked for."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...sae.autoencoder import CONFIG_FILE, WEIGHTS_FILE
from ...sae.common.checksums import (
    record_of,
    recorded_files,
    require_as_written,
    write_checked_json,
)
from ...sae.common.errors import InputError
from ...sae.common.files import atomic_folder
from ...sae.common.locks import hold
from ...sae.common.paths import require_no_file_at
from ...sae.fingerprint import sae_fingerprint
from ...sae.interop.push import SAELENS, HubUpload, not_pushed, push_folder, write_layouts
from ...sae.language_model.names import public_name
from ...steering.features.layout import CHECKED_VERSION, FOLDER, MANIFEST
from ...steering.features.manifest import read_manifest
from ..report import plots
from .card import LIBRARY, card
from .config import PublishConfig
from .source import EVALUATION, Published, read_run

CARD = "README.md"
_PLOTS = "plots"
_WRITTEN = {CARD, CONFIG_FILE, WEIGHTS_FILE, SAELENS, _PLOTS, FOLDER}
"""What may lie in the folder."""

_AGAIN = "build the index again with sparsteer features build"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Publication:
    """What came of publishing."""

    folder: Path
    upload: HubUpload
    warnings: tuple[str, ...]
    """What is missing, and what would bring it."""


def publish(
    config: PublishConfig, *, say: Callable[[str], None] = lambda sentence: None
) -> Publication:
    """Write a run as a folder for the hub; with `config.push` upload it, else nothing is sent.

    The folder has the autoencoder in this package's layout and, in `saelens/`, in that of SAELens
    where that can hold it, the model card README.md, plots and the feature index. Nothing in it
    names a folder of this machine.

    Raises:
        InputError: the run is not complete or damaged, `config.out` holds something else, or the
            hub refuses the upload or cannot be reached.
    """
    published = read_run(config)
    out = Path(config.out or Path(config.run) / "publish")
    _require_ours(out)
    with hold(out), atomic_folder(out) as folder:
        warnings = _write(published, folder)
    upload = not_pushed(out, config.repo)
    if config.push:
        say(f"pushing {out} to {upload.url}")
        upload = push_folder(
            out,
            config.repo,
            private=config.private,
            revision=config.revision,
            message=f"Publish a sparse autoencoder of {published.model or 'a language model'}",
            progress=say,
        )
    return Publication(folder=out, upload=upload, warnings=tuple(warnings))


def _require_ours(out: Path) -> None:
    """Raise InputError if something else than an earlier such folder would be replaced."""
    require_no_file_at(out)
    there = {item.name for item in out.iterdir()} if out.exists() else set[str]()
    marked = CARD in there and f"library_name: {LIBRARY}" in _text(out / CARD)
    if there and not (marked and there <= _WRITTEN):
        raise InputError(f"{out} holds something else than a published run; choose another --out")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _write(published: Published, folder: Path) -> list[str]:
    """Fill the folder; give what is missing, in sentences."""
    warnings: list[str] = []
    sae = published.sae
    if published.config.base_model and sae.origin is not None:
        sae.origin = dataclasses.replace(sae.origin, model=published.config.base_model)
    no_saelens = write_layouts(sae, folder)
    if no_saelens is not None:
        warnings.append(f"there is no folder for SAELens: {no_saelens}")
    drawn = _draw(published, folder) if find_spec("matplotlib") else {}
    if not drawn:
        warnings.append("the card has no plots, which need pip install 'sparsteer[plots]'")
    index = _copy_index(published, folder, warnings)
    if published.evaluation is None or published.evaluation["language_model"] is None:
        warnings.append(
            "the card says that loss recovered and KL were not measured; write what sparsteer eval "
            f"{published.config.run} --cache CACHE --json prints into {EVALUATION} there"
        )
    if published.config.license is None:
        warnings.append("the card states no license; give one as --license")
    if published.hub_model is None:
        warnings.append(
            "the card cannot link the language model, which the run knows as a local folder; give "
            "its name on the hub as --base-model"
        )
    text = card(published, plots=drawn, no_saelens=no_saelens, index=index)
    (folder / CARD).write_text(text, encoding="utf-8")
    return warnings


def _draw(published: Published, folder: Path) -> dict[str, str]:
    """Draw what is known as pictures, and say what each shows, by its path in the folder."""
    (style,) = plots.styles([published.config.repo.partition("/")[2]])
    drawings: dict[str, plots.Drawing] = {}
    if published.points:
        curves = [(style, published.points)]
        drawings["fvu"] = plots.fvu_curves(curves)
        drawings["l0"] = plots.l0_curves(curves, published.sae.config.d_model)
    if found := published.evaluation:
        drawings["density"] = plots.density(style, found["density_histogram"], found["rows"])
        drawings["zf"] = plots.zf(style, found["norms"])
    if drawings:
        (folder / _PLOTS).mkdir()
    for name, drawing in drawings.items():
        (folder / _PLOTS / f"{name}.png").write_bytes(drawing.png())
    return {f"{_PLOTS}/{name}.png": drawing.label for name, drawing in drawings.items()}


def _copy_index(
    published: Published, folder: Path, warnings: list[str]
) -> Mapping[str, Any] | None:
    """Copy the run's feature index, whose manifest loses the paths; None if there is none, or it
    is of another state of the run."""
    source, target = Path(published.config.run) / FOLDER, folder / FOLDER
    if not published.config.index or not (source / MANIFEST).is_file():
        return None
    manifest = read_manifest(source, _AGAIN)
    if manifest["sae"] != sae_fingerprint(published.sae):
        warnings.append(
            f"the feature index is of another state of the run, and is left out; {_AGAIN}"
        )
        return None
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.suffix in (".npy", ".parquet"):
            require_as_written(path, record_of(manifest, path.name), _AGAIN)
            shutil.copyfile(path, target / path.name)
    manifest |= {
        "version": max(CHECKED_VERSION, manifest["version"]),
        "model": published.config.base_model or public_name(manifest["model"]),
        "files": recorded_files(target, (path.name for path in target.iterdir())),
    }
    write_checked_json(target / MANIFEST, manifest)
    return manifest
