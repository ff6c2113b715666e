"""A fit as a folder: `fitted.json`, and the tensors beside it in `vectors.safetensors`.

    {"version": 2, "method": "mean_difference",
     "model": {"name": "smollm2-135m", "weights_hash": "...", "d_model": 576},
     "edits": [{"kind": "add", "site": "blocks.15.hook_resid_post", "tensors": {"v": "edits.0.v"}}],
     "gate": null, "report": {...}, "files": {"vectors.safetensors": {...}}, "sha256": "..."}

Tensors stand under the names in the file.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from ...sae.common.checksums import read_checked_json, record_of, recorded_files, write_checked_json
from ...sae.common.errors import InputError
from ...sae.common.files import atomic_folder, other_content
from ...sae.common.paths import require_no_file_at
from ...sae.common.tensor_files import load_tensors, save_tensors
from ...sae.language_model.model import LanguageModel
from .fitted import FitReport, Fitted, FittedEdit, FittedGate

FITTED_FILE = "fitted.json"
VECTORS_FILE = "vectors.safetensors"
_REMEDY = "fit it again, or copy the whole folder again"


def require_free(out: str | Path, *, force: bool) -> None:
    """Raise InputError if something is at `out` that a fit may not replace: without `force`
    anything, and with it what is not a fit."""
    out = Path(out)
    require_no_file_at(out)
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / FITTED_FILE).is_file():
        raise InputError(f"{out} is a folder of something else than a fit; give another --out")
    if not force:
        raise other_content(out)


def save_fitted(
    fitted: Fitted, out: str | Path, model: LanguageModel, *, force: bool = False
) -> None:
    """Write the folder; it appears whole or not at all.

    Raises:
        InputError: something else is there, or another fit and `force` is not set.
    """
    require_free(out, force=force)
    tensors: dict[str, Tensor] = {}
    edits = [
        {
            "kind": edit.kind,
            "site": edit.site,
            "tensors": _named(edit.tensors, f"edits.{n}", tensors),
        }
        for n, edit in enumerate(fitted.edits)
    ]
    gate = fitted.gate
    values = {
        "method": fitted.method,
        "model": _model(model),
        "edits": edits,
        "gate": None
        if gate is None
        else {
            "kind": gate.kind,
            "site": gate.site,
            "settings": dict(gate.settings),
            "tensors": _named(gate.tensors, "gate", tensors),
        },
        "report": asdict(fitted.report),
    }
    with atomic_folder(out) as folder:
        save_tensors(folder / VECTORS_FILE, tensors)
        files = recorded_files(folder, [VECTORS_FILE])
        write_checked_json(folder / FITTED_FILE, {**values, "files": files})


def load_fitted(folder: str | Path, model: LanguageModel | None = None) -> Fitted:
    """Read what `save_fitted` wrote.

    Args:
        folder: the folder.
        model: the language model that it is for, if that is to be checked.

    Raises:
        InputError: there is no fit, a file is missing, broken or has changed, or it was fitted to
            another model.
    """
    path = Path(folder) / FITTED_FILE
    values = read_checked_json(path, "fit", remedy=_REMEDY)
    tensors = load_tensors(
        path.parent / VECTORS_FILE, _REMEDY, record=record_of(values, VECTORS_FILE)
    )
    if model is not None and values.get("model", {}).get("weights_hash") != model.weights_hash:
        raise InputError(
            f"{folder} was fitted to another model than {model.name}, or to other weights of it; "
            "fit it to this one"
        )
    try:
        gate: Mapping[str, Any] | None = values["gate"]
        return Fitted(
            method=values["method"],
            edits=tuple(
                FittedEdit(
                    kind=edit["kind"], site=edit["site"], tensors=_of(edit["tensors"], tensors)
                )
                for edit in values["edits"]
            ),
            gate=None
            if gate is None
            else FittedGate(
                kind=gate["kind"],
                site=gate["site"],
                tensors=_of(gate["tensors"], tensors),
                settings=gate["settings"],
            ),
            report=_report(values["report"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no description of a fit ({error!r}); {_REMEDY}") from None


def fitted_values(fitted: Fitted) -> dict[str, Any]:
    """What was fitted without its tensors, for a program: `method`, `edits` and `gate` with the
    shapes of their tensors, and `report`."""

    def shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
        return {name: list(tensor.shape) for name, tensor in tensors.items()}

    gate = fitted.gate
    return {
        "method": fitted.method,
        "edits": [
            {"kind": edit.kind, "site": edit.site, "tensors": shapes(edit.tensors)}
            for edit in fitted.edits
        ],
        "gate": None
        if gate is None
        else {
            "kind": gate.kind,
            "site": gate.site,
            "settings": dict(gate.settings),
            "tensors": shapes(gate.tensors),
        },
        "report": asdict(fitted.report),
    }


def _model(model: LanguageModel) -> dict[str, Any]:
    return {"name": model.source, "weights_hash": model.weights_hash, "d_model": model.d_model}


def _named(own: Mapping[str, Tensor], prefix: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Put the tensors of an edit or gate among all of the file, and give their names there."""
    names = {name: f"{prefix}.{name}" for name in own}
    tensors |= {names[name]: tensor for name, tensor in own.items()}
    return names


def _of(names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[place] for name, place in names.items()}


def _report(values: Mapping[str, Any]) -> FitReport:
    known = {each.name for each in fields(FitReport)}
    return FitReport(**{name: value for name, value in values.items() if name in known})
