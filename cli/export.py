"""The verb `export`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ..sae.common.errors import InputError
from ..sae.common.paths import FilePath
from ..sae.common.shipped import is_shipped, shipped_folder
from ..sae.common.wording import count
from ..sae.interop.layouts import LAYOUTS, ExportDtype
from ..steering.config import SteeringChoice
from ..steering.registries import STEERING_FORMATS
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

    format: Annotated[str, LAYOUTS, STEERING_FORMATS] = "saelens"
    """Of an autoencoder: saelens is what SAELens 6 loads from disk; circuit-tracer has transcoders;
    sparsteer is this tool's own, with batch_topk as jumprelu. Of steering with --feature, --picks
    or --intervention: lm-eval, a file for its model type steered; gguf, a control vector for
    llama.cpp and repeng; easysteer and hotwire, vectors for vLLM; transformers, the language model
    with the vector in a bias. Installed packages may have others."""

    dtype: ExportDtype = "float32"
    """What the weights of an autoencoder are stored in; int8, a quarter of float32, goes with
    --format sparsteer, and each row then has a scale of its own."""

    steering: SteeringChoice = field(default_factory=SteeringChoice)
    """What is steered, for a format of steering."""


def run(options: ExportOptions, terminal: Terminal) -> Report:
    """Write an autoencoder, steering with its features or an intervention for other tools.

    SAE is the folder of an autoencoder, or of the run that trained it. batch_topk becomes jumprelu
    with the threshold that it learned in training. A format of steering holds one vector, which is
    added at every token as `sparsteer generate` adds it in the tier constant.
    """
    from ..sae.interop.own_folder import is_own_folder, sae_folder
    from ..training.run import SETTINGS

    source, out = Path(options.sae), Path(options.out).resolve()
    if is_shipped(options.sae):
        source = shipped_folder(options.sae)
    source = sae_folder(source) if is_own_folder(source) else source
    if source.resolve() in (out, *out.parents):
        raise InputError(
            f"--out is {options.out}, but the autoencoder to export is in {source}; choose another "
            "--out"
        )
    if out.name == "sae" and (out.parent / SETTINGS).exists():
        raise InputError(f"--out is {options.out}, the autoencoder of a run; choose another --out")
    if options.format in STEERING_FORMATS.names() and options.format not in LAYOUTS.names():
        return _steering(options, terminal)
    return _autoencoder(options, source)


def _autoencoder(options: ExportOptions, source: Path) -> Report:
    from ..sae.autoencoder import SparseAutoencoder
    from ..sae.interop.export import export

    if given := options.steering.given():
        raise InputError(
            f"{given[0]} belongs to steering, and {options.format} holds the whole autoencoder; "
            f"leave it out, or choose --format {', '.join(STEERING_FORMATS.names())}",
            field=given[0],
        )
    sae = SparseAutoencoder.load(source)
    export(sae, options.out, options.format, dtype=options.dtype, force=options.force)
    known = options.format in LAYOUTS.builtin
    became = (sae.activation.exported(sae) if known else sae).config.activation
    values = {
        "sae": options.sae,
        "out": options.out,
        "format": options.format,
        "activation": became,
        "dtype": options.dtype,
    }
    shown = [f"{options.sae} is exported to {options.out} as {became}, for {options.format}"]
    if options.format == "saelens":
        shown.append(
            f"read it there with SAE.load_from_disk({options.out!r}); it takes raw activations"
        )
        shown.append(
            "SAELens 6 needs transformer-lens below 4, so install it in an environment of its own"
        )
    return Report(values=values, shown=shown)


def _steering(options: ExportOptions, terminal: Terminal) -> Report:
    if options.dtype != "float32":
        raise InputError(
            f"dtype is {options.dtype}, but {options.format} holds a vector in float32; leave it "
            "out",
            field="dtype",
        )
    from ..steering.export.exporting import export_steering
    from ..steering.interventions.intervention import Intervention

    exported = export_steering(
        options.sae,
        options.out,
        options.format,
        options.steering,
        force=options.force,
        say=terminal.say,
    )
    record = exported.record
    pushes = Intervention.from_dict(record["intervention"]).pushes
    shown = [
        f"exported to {options.out} for {options.format}: {pushes}",
        f"a vector of norm {record['norm']:.4g} in the model's own units, added after block "
        f"{record['after_block']} of {count(record['blocks'])} (the first is 0)",
        *exported.usage,
    ]
    values = {"sae": options.sae, "out": options.out, **record, "usage": exported.usage}
    return Report(values=values, shown=shown)
