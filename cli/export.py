"""The verb `export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..sae.common.errors import InputError
from ..sae.common.paths import FilePath
from ..sae.interop.layouts import LAYOUTS
from .console import Report, Terminal


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export, where to, and how."""

    sae: FilePath
    """Folder of the autoencoder, or of the run that trained it."""

    out: FilePath
    """Folder to write; not there yet, or empty."""

    force: bool = False
    """Replace another export that is at `out`."""

    layout: Annotated[str, LAYOUTS] = "saelens"
    """File layout: saelens is what SAELens 6 loads from disk; sparsteer is this tool's own, with
    batch_topk as jumprelu; installed packages may have others."""


def run(options: ExportOptions, terminal: Terminal) -> Report:
    """Write an autoencoder for other tools.

    SAE is the folder of an autoencoder, or of the run that trained it. batch_topk becomes jumprelu
    with the threshold that it learned in training.
    """
    from ..sae.autoencoder import SparseAutoencoder
    from ..sae.interop.export import export
    from ..sae.interop.own_folder import is_own_folder, sae_folder
    from ..training.run import SETTINGS

    source, out = Path(options.sae), Path(options.out).resolve()
    source = sae_folder(source) if is_own_folder(source) else source
    if source.resolve() in (out, *out.parents):
        raise InputError(
            f"--out is {options.out}, but the autoencoder to export is in {source}; choose another "
            "--out"
        )
    if out.name == "sae" and (out.parent / SETTINGS).exists():
        raise InputError(f"--out is {options.out}, the autoencoder of a run; choose another --out")
    sae = SparseAutoencoder.load(source)
    export(sae, options.out, options.layout, force=options.force)
    fixed = options.layout in ("saelens", "sparsteer")
    became = (sae.activation.exported(sae) if fixed else sae).config.activation
    values = {
        "sae": options.sae,
        "out": options.out,
        "layout": options.layout,
        "activation": became,
    }
    shown = [f"{options.sae} is exported to {options.out} as {became}, for {options.layout}"]
    if options.layout == "saelens":
        shown.append(
            f"read it there with SAE.load_from_disk({options.out!r}); it takes raw activations"
        )
        shown.append(
            "SAELens 6 needs transformer-lens below 4, so install it in an environment of its own"
        )
    return Report(values=values, shown=shown)
