"""A fit as a folder: an intervention with its vectors, and beside them `fit.json`.

`intervention.json` and `vectors.safetensors` are those of `Intervention.save`, so that whatever
takes an intervention takes the folder. `fit.json` says where they come from:

    {"version": 2, "method": "mean_difference",
     "model": {"name": "smollm2-135m", "weights_hash": "...", "d_model": 576},
     "report": {...}, "sha256": "..."}

Where a gate was fitted alone, `intervention.json` has no edit.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

from ...sae.common.checksums import read_checked_json, write_checked_json
from ...sae.common.errors import InputError
from ...sae.common.files import atomic_folder, json_text, other_content, read_json
from ...sae.common.paths import require_no_file_at
from ...sae.language_model.model import LanguageModel
from ..interventions.folder import SPEC_FILE, read_vectors, write_files
from ..interventions.layout import places, plain_values, read_parts
from ..interventions.spec import Gate
from .fitted import FitReport, Fitted

FIT_FILE = "fit.json"
_REMEDY = "fit it again, or copy the whole folder again"


def require_free(out: str | Path, *, force: bool) -> None:
    """Raise InputError if something is at `out` that a fit may not replace: without `force`
    anything, and with it what is not a fit."""
    out = Path(out)
    require_no_file_at(out)
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / FIT_FILE).is_file():
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
    parts = fitted.parts
    values = {"method": fitted.method, "model": _model(model), "report": asdict(fitted.report)}
    with atomic_folder(out) as folder:
        write_files(folder, json_text(plain_values(parts)), places(parts))
        write_checked_json(folder / FIT_FILE, values)


def load_fitted(folder: str | Path, model: LanguageModel | None = None) -> Fitted:
    """Read what `save_fitted` wrote.

    Args:
        folder: the folder.
        model: the language model that it is for, if that is to be checked.

    Raises:
        InputError: there is no fit, a file is missing, broken or has changed, or it was fitted to
            another model.
    """
    path = Path(folder) / FIT_FILE
    values = read_checked_json(path, "fit", remedy=_REMEDY)
    if model is not None:
        _require_same_model(values, folder, model)
    spec = Path(folder) / SPEC_FILE
    read = read_json(spec, "intervention", remedy=_REMEDY)
    parts = read_parts(read, str(folder), read_vectors(spec))
    try:
        return Fitted(
            method=values["method"],
            edits=parts.edits,
            gate=None if parts.gate == Gate() else parts.gate,
            cap=parts.cap,
            positions=parts.positions,
            report=_report(values["report"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no description of a fit ({error!r}); {_REMEDY}") from None


def require_fitted_to(folder: str | Path, model: LanguageModel) -> None:
    """Raise an InputError if the folder is a fit to another model, or to other weights of it; one
    that says nothing of a model is taken."""
    path = Path(folder) / FIT_FILE
    if path.is_file():
        _require_same_model(read_checked_json(path, "fit", remedy=_REMEDY), folder, model)


def model_fitted_to(folder: str | Path) -> str | None:
    """The name under which the language model was loaded that the folder was fitted to; None where
    the folder is no fit. Raises InputError if `fit.json` is broken or has changed."""
    path = Path(folder) / FIT_FILE
    if not path.is_file():
        return None
    made: object = read_checked_json(path, "fit", remedy=_REMEDY).get("model")
    name = cast(dict[str, Any], made).get("name") if isinstance(made, dict) else None
    return name if isinstance(name, str) and name else None


def fitted_values(fitted: Fitted) -> dict[str, Any]:
    """What was fitted without its tensors, for a program: `method`, `edits`, `gate` and `cap` with
    the shapes of their tensors, and `report`."""

    def shapes(tensors: Mapping[str, Any]) -> dict[str, list[int]]:
        return {name: list(tensor.shape) for name, tensor in tensors.items()}

    gate, cap = fitted.gate, fitted.cap
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
            "threshold": gate.threshold,
            "settings": dict(gate.settings),
            "tensors": shapes(gate.tensors),
        },
        "cap": None
        if cap is None
        else {"site": cap.site, "budget": cap.budget, "tensors": shapes(cap.vectors.tensors)},
        "report": asdict(fitted.report),
    }


def _model(model: LanguageModel) -> dict[str, Any]:
    return {"name": model.source, "weights_hash": model.weights_hash, "d_model": model.d_model}


def _require_same_model(
    values: Mapping[str, Any], folder: str | Path, model: LanguageModel
) -> None:
    made: object = values.get("model")
    known = cast(dict[str, Any], made).get("weights_hash") if isinstance(made, dict) else None
    if known != model.weights_hash:
        raise InputError(
            f"{folder} was fitted to another model than {model.name}, or to other weights of it; "
            "fit it to this one"
        )


def _report(values: Mapping[str, Any]) -> FitReport:
    known = {each.name for each in fields(FitReport)}
    return FitReport(**{name: value for name, value in values.items() if name in known})
