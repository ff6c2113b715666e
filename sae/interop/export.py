"""Autoencoders for elsewhere, in any layout that can be written."""

from pathlib import Path

import torch

from ..autoencoder import CONFIG_FILE, WEIGHTS_FILE, SparseAutoencoder
from ..common.checksums import SUMS_FILE
from ..common.errors import InputError
from ..common.files import atomic_folder
from ..common.locks import hold
from . import saelens
from .layouts import ExportDtype, writable_layout

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
            with them.
        force: whether an export of another autoencoder or in another layout is replaced.

    Raises:
        InputError: the folder has other content, there is no such layout, the layout cannot hold
            the autoencoder, or another process is writing there.
    """
    writer, out = writable_layout(layout), Path(out)
    if file := next((path for path in (out, *out.parents) if path.is_file()), None):
        raise InputError(f"{file} is a file, not a folder; choose another --out")
    with hold(out), atomic_folder(out, replace=force) as folder:
        writer.write(sae, folder, getattr(torch, dtype))
        ours = _EXPORTED | {item.name for item in folder.iterdir()}
        if out.exists() and not {item.name for item in out.iterdir()} <= ours:
            raise InputError(f"{out} holds something else than an export; choose another --out")
