"""Autoencoders for elsewhere, in any layout that can be written."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..autoencoder import CONFIG_FILE, WEIGHTS_FILE, SparseAutoencoder
from ..common.checksums import SUMS_FILE, read_sums
from ..common.errors import InputError
from ..common.files import atomic_folder
from ..common.locks import hold
from ..common.paths import require_no_file_at
from . import saelens
from .folding import require_one_reading
from .layouts import OWN, ExportDtype, writable_layout

_EXPORTED = {
    saelens.CONFIG_FILE,
    saelens.WEIGHTS_FILE,
    SUMS_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
}


def export(
    sae: SparseAutoencoder,
    out: str | Path,
    layout: str = "saelens",
    *,
    dtype: ExportDtype = "float32",
    force: bool = False,
) -> None:
    """Write the autoencoder into a new folder, which appears whole or not at all.

    Args:
        sae: the autoencoder.
        out: the folder, not there yet or empty, or with this very export.
        layout: name of a layout in `LAYOUTS` that can be written, such as `saelens`, as
            `to_saelens` describes, or `sparsteer`, this package's own, with batch_topk as jumprelu.
        dtype: of the weights; the thresholds of jumprelu and this package's own layout are rounded
            with them. int8, of that layout alone, rounds the encoder's and decoder's rows, each
            with a scale of its own (`int8_rows`), and nothing else.
        force: whether an export of another autoencoder or in another layout is replaced.

    Raises:
        InputError: the folder has other content, there is no such layout, the layout cannot hold
            the autoencoder or the dtype, or another process is writing there.
    """
    writer = writable_layout(layout)
    if layout != OWN:
        require_one_reading(sae)
    if dtype == "int8" and layout != OWN:
        raise InputError(
            f"dtype is int8, which {layout} does not have; choose float16, or the layout {OWN}",
            field="dtype",
        )
    with export_folder(Path(out), force=force) as folder:
        writer.write(sae, folder, getattr(torch, dtype))


@contextmanager
def export_folder(out: Path, *, force: bool, marker: str = "") -> Generator[Path]:
    """Give a new folder to fill, which becomes `out` whole or not at all, by one writer at a time.

    Args:
        out: not there yet or empty, or with the very files that are written again.
        force: whether another export is replaced.
        marker: a file that every export of this kind has, if its other files may have any name;
            what SHA256SUMS names beside it is replaced, too.

    Raises:
        InputError: the folder has other content, or another process is writing there.
    """
    require_no_file_at(out)
    with hold(out), atomic_folder(out, replace=force) as folder:
        yield folder
        there = {item.name for item in out.iterdir()} if out.exists() else set[str]()
        ours = _EXPORTED | {item.name for item in folder.iterdir()}
        if marker in there and SUMS_FILE in there:
            ours |= read_sums(out / SUMS_FILE).keys()
        if not there <= ours or (there and marker and marker not in there):
            raise InputError(f"{out} holds something else than an export; choose another --out")
