"""The picks as JSON: read, changed, undone, taken out and in."""

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Json, StrictBool, StrictFloat, StrictInt, StrictStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ....sae.common.checksums import require_checksum, with_checksum
from ....sae.common.errors import InputError
from ....sae.common.files import json_text
from ....sae.common.old_names import with_new_names
from ....sae.common.validation import require_finite, require_text
from ....steering.features.pick_history import CannotUndo, Step
from ....steering.features.pick_store import PickStore
from ....steering.features.picks import FILE, Pick, Picks
from ..rendering import session_of

router = APIRouter()

_TAB = "X-Sparsteer-Tab"
_LONGEST = {"label": 300, "note": 4000}
_MOST_STEPS = 200


class Given(BaseModel):
    """What is changed of a pick; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    label: StrictStr | None = None
    note: StrictStr | None = None
    strength: StrictFloat | StrictInt | None = None
    starred: StrictBool | None = None
    verdict: StrictStr | None = None
    confidence: StrictInt | None = None


class Imported(BaseModel):
    """The content of a picks.json, and what becomes of the picks that are there."""

    model_config = ConfigDict(extra="forbid")

    file: dict[str, Any] | Json[dict[str, Any]]
    """Its values, or its text: a script that reads 1.0 and writes 1 changes what has a checksum."""
    mode: Literal["merge", "replace"] = "merge"


@router.get("/api/picks")
def picks(request: Request, since: str = "") -> dict[str, Any]:
    """All picks, how far the review is, and their revision; only the revision if it is `since`."""
    store = session_of(request).picks
    revision = store.revision
    if revision == since:
        return {"revision": revision, "changed": False}
    return {
        "revision": revision,
        "changed": True,
        "picks": [_plain(pick) for pick in store.picks().picks],
        "progress": store.progress(),
    }


@router.get("/api/picks/history")
def history(request: Request, limit: int = 50) -> dict[str, Any]:
    """The last changes, the latest first."""
    if not 1 <= limit <= _MOST_STEPS:
        raise InputError(f"limit is {limit}; give 1 to {_MOST_STEPS}", field="limit")
    return {"steps": [step.to_dict() for step in session_of(request).picks.history(limit)]}


@router.get("/api/picks/export")
def export(request: Request) -> Response:
    """The picks as the file that every verb reads."""
    store = session_of(request).picks
    return Response(
        json_text(with_checksum(store.picks().to_dict())),
        media_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="{FILE}"'},
    )


@router.post("/api/picks/import")
def take_in(request: Request, imported: Imported) -> dict[str, Any]:
    """Take the picks of a file in: beside those that are there, or in their place."""
    store = session_of(request).picks
    values = dict(imported.file)
    require_checksum(values, "this picks file", "export it again, or give version 1 without sha256")
    coming = Picks.from_dict(with_new_names(values), sae=store.sae, path="this picks file")
    for pick in coming.picks:
        _require_short(pick.label, pick.note)
    step = store.replace(coming, author=_author(request), merge=imported.mode == "merge")
    return {"step": _step(step), "progress": store.progress(), "revision": store.revision}


@router.post("/api/picks/undo")
def undo(request: Request) -> Response:
    """Undo the last change of this tab; of any where the request names no tab.

    Answers 409 where there is none, or others have changed the same since.
    """
    store = session_of(request).picks
    author = _author(request)
    try:
        step = store.undo(author=author if _TAB in request.headers else None, by=author)
    except CannotUndo as error:
        values = {"message": str(error), "type": "conflict", "code": None}
        return JSONResponse({"error": values}, status_code=409)
    changed = [change.feature for change in step.changes]
    return JSONResponse(
        {
            "step": _step(step),
            "features": changed,
            "picks": {str(number): _plain(store.get(number)) for number in changed},
            "progress": store.progress(),
            "revision": store.revision,
        }
    )


@router.get("/api/picks/{feature}")
def pick(request: Request, feature: int) -> dict[str, Any]:
    """The pick of a feature; null if it is not picked."""
    store = session_of(request).picks
    store.require_feature(feature)
    return {"pick": _plain(store.get(feature)), "revision": store.revision}


@router.post("/api/picks/{feature}")
def change(request: Request, feature: int, given: Annotated[Given, Body()]) -> dict[str, Any]:
    """Pick a feature, or change what is given of its pick."""
    store = session_of(request).picks
    fields = given.model_dump(exclude_unset=True)
    for name, value in fields.items():
        if value is None and name != "confidence":
            raise InputError(f"{name} is null; give a value, or leave it out", field=name)
    _require_short(fields.get("label", ""), fields.get("note", ""))
    if "strength" in fields:
        require_finite("strength", fields["strength"])
        fields["strength"] = float(fields["strength"])
    return _changed(store, feature, store.change(feature, author=_author(request), **fields))


@router.post("/api/picks/{feature}/remove")
def remove(request: Request, feature: int) -> dict[str, Any]:
    """Take a feature out of the picks."""
    store = session_of(request).picks
    return _changed(store, feature, store.remove(feature, author=_author(request)))


def _changed(store: PickStore, feature: int, step: Step | None) -> dict[str, Any]:
    return {
        "pick": _plain(store.get(feature)),
        "step": _step(step),
        "progress": store.progress(),
        "revision": store.revision,
    }


def _author(request: Request) -> str:
    """Who changes something: a tab of the browser, by the name that it has given itself."""
    tab = request.headers.get(_TAB)
    if tab is None:
        return "browser"
    if not re.fullmatch(r"[A-Za-z0-9-]{1,40}", tab):
        raise InputError(f"{_TAB} must be 1 to 40 letters, digits and hyphens")
    return f"tab {tab}"


def _plain(pick: Pick | None) -> dict[str, Any] | None:
    """Every field, also those that a file leaves out."""
    return None if pick is None else dict(vars(pick))


def _step(step: Step | None) -> dict[str, Any] | None:
    return None if step is None else {"step": step.step, "at": step.at, "undoes": step.undoes}


def _require_short(label: str, note: str) -> None:
    for name, text in (("label", label), ("note", note)):
        require_text(name, text)
        if len(text) > _LONGEST[name]:
            raise InputError(
                f"{name} has {len(text):,} characters, but at most {_LONGEST[name]:,} are kept; "
                "shorten it",
                field=name,
            )
