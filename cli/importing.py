"""The verb `import`."""

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..sae.common.errors import InputError
from ..sae.common.paths import FilePath
from ..sae.common.validation import require_in_range, require_positive_integer
from ..sae.common.wording import counted, percent
from ..sae.config import ModelDtype, NormalizeActivations
from ..sae.interop.layouts import LAYOUTS
from .console import Report, Terminal, next_command, table

if TYPE_CHECKING:
    from ..sae.autoencoder import SparseAutoencoder
    from ..sae.config import Origin
    from ..sae.interop.layouts import Found
    from ..training.evaluation.import_check import CheckedImport


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What to import, how it is read, and how it is checked."""

    source: str | None = None
    """A folder or file, hub:OWNER/NAME[/SUBFOLDER][@REVISION], or a name of the catalog."""

    out: FilePath | None = None
    """Folder to write, which every verb takes as a run; not there yet, or empty."""

    layout: Annotated[str, LAYOUTS] | None = None
    """File layout; by default recognized from the files."""

    list: str | None = None
    """In place of an import: list the releases of the catalog with this word in them; all for every
    one."""

    model: str | None = None
    """Language model that it was trained on, where its files do not say it, or say another."""

    site: str | None = None
    """Site where it reads, where its files do not say it, or say another."""

    target_site: str | None = None
    """Site that a transcoder predicts, where its files do not say it, or say another."""

    normalize_activations: NormalizeActivations | None = None
    """How each row is normalized before it is encoded, where its files say it wrongly."""

    input_scale: float | None = None
    """Factor by which activations were scaled in training, if the weights have it not folded in."""

    check: bool = True
    """Measure it on real text through its language model; --no-check leaves that out."""

    text: str = "news"
    """Corpus for the check: a name that fetch knows, a file, a folder or a name on the hub."""

    tokens: int = 4096
    """Tokens of text for the check."""

    model_dtype: ModelDtype = "float32"
    """In which the language model runs for the check."""

    device: str = "auto"
    """Device of the check: auto, cpu, cuda or cuda:N."""

    force: bool = False
    """Replace another import that is at `out`."""

    def __post_init__(self) -> None:
        if (self.list is None) == (self.source is None):
            raise InputError("give either SOURCE, the autoencoder to import, or --list WORD")
        if self.source is not None and self.out is None:
            raise InputError("out is missing; give the folder to write with --out", field="out")
        require_positive_integer("tokens", self.tokens)
        if self.input_scale is not None:
            require_in_range("input_scale", self.input_scale, low=1e-6, high=1e6)


def run(options: ImportOptions, terminal: Terminal) -> Report:
    """Read an autoencoder of another library, check it on real text, and write it as a run.

    SOURCE is a folder or file, hub:OWNER/NAME[/SUBFOLDER][@REVISION], or a name of the catalog,
    RELEASE/ID. Its codes keep the units of the library that wrote it. The check names the likely
    cause where the figures are off: another site, BOS, normalization or activation.
    """
    if options.source is None:
        return _listed(options.list or "")
    from ..sae.common.devices import resolve_device
    from ..sae.interop.importing import describe, require_place, write_import
    from ..sae.interop.layouts import find, read_found, stated_figures

    assert options.out is not None  # the options require it
    require_place(Path(options.out))  # before the check, which takes a while
    resolve_device(options.device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = find(options.source, options.layout)
        sae = _as_asked(read_found(found), options)
    checked = None
    if options.check:
        checked = _checked(sae, options, stated_figures(found, sae), terminal)
        _keep_hash(sae, checked)
    check = None if checked is None else _check_values(checked)
    record = {**describe(found, options.source), "check": check}
    write_import(sae, options.out, record, force=options.force)
    values = {
        **record,
        "out": options.out,
        "activation": sae.config.activation,
        "transcoder": sae.config.transcoder,
        "d_model": sae.config.d_model,
        "n_latents": sae.config.n_latents,
        "model": None if sae.origin is None else sae.origin.model,
        "site": None if sae.origin is None else sae.origin.site,
    }
    shown = _shown(sae, found, options, checked)
    return Report(
        values=values,
        shown=shown,
        warnings=[*(str(one.message) for one in caught), *_cautions(checked)],
    )


def _as_asked(sae: "SparseAutoencoder", options: ImportOptions) -> "SparseAutoencoder":
    """The autoencoder with what the options say otherwise than its files."""
    from ..sae.config import Origin
    from ..training.evaluation.conversion_faults import changed, with_input_scale

    if options.normalize_activations is not None:
        sae = changed(sae, normalize_activations=options.normalize_activations)
    if options.input_scale is not None:
        sae = with_input_scale(sae, options.input_scale)
    if options.target_site is not None and not sae.config.transcoder:
        raise InputError(
            f"target_site is {options.target_site}, but {options.source} is an autoencoder, which "
            "predicts what it reads; leave it out",
            field="target_site",
        )
    asked = {"model": options.model, "site": options.site, "target_site": options.target_site}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if given and sae.origin is not None:
        sae.origin = dataclasses.replace(sae.origin, weights_hash=None, **given)
    elif options.model is not None and options.site is not None:
        sae.origin = Origin(model=options.model, site=options.site, target_site=options.target_site)
    elif given:
        lacking = "site" if "model" in given else "model"
        raise InputError(
            f"{options.source} does not say its {lacking}; give --{lacking}, too", field=lacking
        )
    return sae


def _checked(
    sae: "SparseAutoencoder",
    options: ImportOptions,
    stated: dict[str, float],
    terminal: Terminal,
) -> "CheckedImport":
    from ..sae.language_model.model import LanguageModel
    from ..training.evaluation.import_check import check_on_random_rows, check_on_text

    origin = sae.origin
    if origin is None:
        terminal.say(
            f"{options.source} does not say its language model and site, so that it is checked on "
            "random rows; give --model and --site"
        )
        return check_on_random_rows(sae, stated)
    try:
        model = LanguageModel.load(
            origin.model, device=options.device, dtype=options.model_dtype, progress=terminal.say
        )
        model.site(origin.site)
    except InputError as error:
        if options.model is not None or options.site is not None:
            raise
        terminal.say(f"{error}; so the check is on random rows, which say only that it encodes")
        return check_on_random_rows(sae, stated)
    _require_right_weights(origin, model, str(options.source))
    with terminal.progress("checking", "tokens"):
        return check_on_text(
            sae.to(model.device),
            model,
            origin,
            text=options.text,
            tokens=options.tokens,
            stated=stated,
            say=terminal.say,
        )


def _require_right_weights(origin: "Origin", model: Any, source: str) -> None:
    from ..sae.language_model.reloading import require_same_weights

    require_same_weights(model, origin, f"the autoencoder of {source}")


def _keep_hash(sae: "SparseAutoencoder", checked: "CheckedImport") -> None:
    """Note the weights on which an import does well: later verbs refuse others."""
    if sae.origin is not None and checked.weights_hash is not None and not checked.is_off:
        sae.origin = dataclasses.replace(sae.origin, weights_hash=checked.weights_hash)


def _check_values(checked: "CheckedImport") -> dict[str, Any]:
    causes = [cause._asdict() for cause in checked.likely_causes]
    return {**dataclasses.asdict(checked), "likely_causes": causes, "off": checked.is_off}


def _shown(
    sae: "SparseAutoencoder",
    found: "Found",
    options: ImportOptions,
    checked: "CheckedImport | None",
) -> list[Any]:
    config = sae.config
    where = ""
    if sae.origin is not None:
        where = f", of {sae.origin.model} at {sae.origin.site}"
        if sae.origin.target_site is not None:
            where += f", predicting {sae.origin.target_site}"
    shown: list[Any] = [
        f"{options.source} is imported to {options.out}: {found.layout}, {config.activation} "
        f"{config.kind} of {counted(config.n_latents, 'latent')} and width {config.d_model}{where}"
    ]
    if checked is not None:
        text = "random rows" if checked.text is None else f"content tokens of {checked.text}"
        shown.append(f"on {checked.rows:,} {text}:")
        shown.append(table(*_measures(checked)))
    out = str(options.out)
    return [
        *shown,
        next_command("eval", out, "--cache", "CACHE"),
        next_command("features", "build", out, "--cache", "CACHE"),
        next_command("generate", out, "--feature", "N", "--prompt", "TEXT"),
    ]


def _measures(checked: "CheckedImport") -> list[tuple[str, str, str]]:
    stated = {
        name: f"; its files say {_figure(name, value)}" for name, value in checked.stated.items()
    }
    read = {
        "l0": "latents active on a row",
        "fvu": "fraction of the variance missed",
        "explained_variance": "the rest of the variance, 1 - FVU",
        "dead_fraction": "latents that fired on none of these rows; more fire on more text",
    }
    heads = {"l0": "L0", "fvu": "FVU", "explained_variance": "explained", "dead_fraction": "dead"}
    return [
        (heads[name], _figure(name, getattr(checked, name)), text + stated.get(name, ""))
        for name, text in read.items()
    ]


def _figure(name: str, value: float) -> str:
    if name == "l0":
        return f"{value:.1f}"
    return f"{value:.4f}" if name == "fvu" else percent(value)


def _cautions(checked: "CheckedImport | None") -> list[str]:
    if checked is None or not checked.is_off:
        return []
    if not checked.likely_causes:
        return [
            "the figures are off, and nothing that was tried explains it; perhaps the language "
            f"model (weights SHA-256 {(checked.weights_hash or '')[:12]}...) is another than the "
            "one it was trained on"
        ]
    return [
        f"the figures are off; likely {cause.cause} (FVU {cause.fvu:.4f}, L0 {cause.l0:.1f})"
        for cause in checked.likely_causes
    ]


def _listed(word: str) -> Report:
    from rich.table import Table

    from ..sae.interop import catalog

    releases = catalog.RELEASES if word == "all" else catalog.matching(word)
    if not releases:
        raise InputError(
            f"list is {word!r}, which is in no release of the catalog; try --list all", field="list"
        )
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("an autoencoder of the release", "language model"):
        grid.add_column(heading, no_wrap=True)
    for release in releases:
        grid.add_row(f"{release.name}/{release.example}", release.model)
    values = {"releases": [dataclasses.asdict(release) for release in releases]}
    return Report(values=values, shown=[grid, next_command("import", "RELEASE/ID", "--out", "DIR")])
