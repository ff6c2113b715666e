"""Searching features: the page, and what it asks for as one types."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ....sae.common.errors import InputError
from ....sae.common.text import visible
from ....steering.features.config import SEARCHES, SearchConfig
from ....steering.features.find_config import OUTPUT_RANKINGS, Ranking
from ....steering.features.searching import described, looked_up
from ..rendering import page, session_of
from ..session import Session

router = APIRouter()

_MOST_CHARACTERS = 20_000
_MOST_TEXTS = 500
_MOST_FOUND = 200
_OUTPUTS = 60
"""Features whose outputs are measured where they are ranked by them: more would be waited for."""


class Searched(BaseModel):
    """A search by one thing; see `SearchConfig`."""

    model_config = ConfigDict(extra="forbid")

    by: str
    query: str
    top: int = Field(default=30, ge=1, le=_MOST_FOUND)
    max_density: float = 0.1
    at: list[int] | None = None
    """By text, the tokens at which to look; by default all."""


class Contrasted(BaseModel):
    """Two sets of texts to tell apart."""

    model_config = ConfigDict(extra="forbid")

    positive: list[str] = Field(max_length=_MOST_TEXTS)
    negative: list[str] = Field(max_length=_MOST_TEXTS)
    rank_by: Ranking = "auroc_mean"
    min_firing: float = Field(default=0.1, ge=0, le=1)
    top: int = Field(default=30, ge=1, le=_MOST_FOUND)


class Saved(BaseModel):
    """A search to keep under a name."""

    model_config = ConfigDict(extra="forbid")

    name: str
    by: Literal["text", "token", "logit", "label", "near", "contrast"]
    query: dict[str, Any]


@router.get("/search")
def search_page(request: Request) -> Response:
    """The form; what it finds is asked for by the page."""
    return page(request, "search.html", outputs=_OUTPUTS)


@router.post("/api/search")
def search(request: Request, searched: Searched) -> Response:
    """The features that a search finds, best first, with what is known of each.

    By text, 503 while the language model is still being read.
    """
    session = session_of(request)
    if searched.by == "text":
        return _by_text(session, searched)
    config = _config(session, searched)
    picks = session.picks.picks()
    found = described(session.index, picks, looked_up(session.index, picks, config))
    return JSONResponse({"by": searched.by, "features": [_shown(match) for match in found]})


@router.post("/api/contrast")
def contrast(request: Request, contrasted: Contrasted) -> Response:
    """The features that tell two sets of texts apart, and what to hold them against.

    Answers 503 while the language model is still being read.
    """
    from ....steering.features.search import find_features

    session = session_of(request)
    sides = [[t for t in side if t.strip()] for side in (contrasted.positive, contrasted.negative)]
    for name, side in zip(("first", "second"), sides, strict=True):
        if not side:
            raise InputError(f"the {name} set has no text; give at least one on a line")
    _require_short("".join(sides[0] + sides[1]))
    if waiting := _waiting(session):
        return waiting
    with session.using_model() as loaded:
        found = find_features(
            loaded,
            *sides,
            top=contrasted.top,
            rank_by=contrasted.rank_by,
            min_firing=contrasted.min_firing,
            outputs=_OUTPUTS if contrasted.rank_by in OUTPUT_RANKINGS else None,
        ).to_dict()
    features = described(session.index, session.picks.picks(), found["features"])
    return JSONResponse({**found, "features": [_shown(match) for match in features]})


@router.get("/api/searches")
def searches(request: Request) -> dict[str, Any]:
    """The saved searches by name."""
    return {"searches": [saved.to_dict() for saved in session_of(request).picks.searches.all()]}


@router.post("/api/searches")
def save(request: Request, saved: Saved) -> dict[str, Any]:
    """Save a search, in the place of one of the same name."""
    query = {**saved.query, "by": saved.by}
    return {"search": session_of(request).picks.searches.save(saved.name, query).to_dict()}


@router.post("/api/searches/{number}/delete")
def delete(request: Request, number: int) -> dict[str, Any]:
    """Delete a saved search."""
    session_of(request).picks.searches.delete(number)
    return searches(request)


def _by_text(session: Session, searched: Searched) -> Response:
    from ....steering.features.text_search import search_text

    config = _config(session, searched)
    _require_short(searched.query)
    if waiting := _waiting(session):
        return waiting
    with session.using_model() as loaded:
        found = search_text(
            loaded,
            session.index,
            searched.query,
            top=config.top,
            max_density=config.max_density,
            at=searched.at or None,
        ).to_dict()
    features = described(session.index, session.picks.picks(), found["features"])
    tokens = [visible(text) for text in found["tokens"]]
    shown = {"by": "text", "tokens": tokens, "features": [_shown(match) for match in features]}
    return JSONResponse({**found, **shown})


def _config(session: Session, searched: Searched) -> SearchConfig:
    """The search as the command has it, and checked alike."""
    if searched.by not in SEARCHES:
        raise InputError(f"by is {searched.by!r}; give one of {', '.join(SEARCHES)}", field="by")
    query: Any = searched.query
    if searched.by == "near":
        if not (query.strip().isdecimal() and len(query) < 12):
            raise InputError(f"{query!r} is no number of a feature; give a whole number from 0")
        query = int(query)
    given: dict[str, Any] = {searched.by: query}
    return SearchConfig(
        run=str(session.run), top=searched.top, max_density=searched.max_density, **given
    )


def _require_short(text: str) -> None:
    if len(text) > _MOST_CHARACTERS:
        raise InputError(f"more than {_MOST_CHARACTERS:,} characters are given; give fewer")


def _waiting(session: Session) -> Response | None:
    """The answer while the language model is being read; None once it is there."""
    session.start_loading()
    if session.model_status != "loading":
        return None
    sentence = f"the language model {session.model_name} is still being read; one moment"
    error = {"message": sentence, "type": "loading", "code": None}
    return JSONResponse({"error": error}, status_code=503, headers={"Retry-After": "1"})


def _shown(match: dict[str, Any]) -> dict[str, Any]:
    """A match with its texts plainly visible."""
    shown = {**match, "label": visible(match["label"])}
    for name in ("peaks", "tokens"):
        if name in match:
            shown[name] = [visible(text) for text in match[name]]
    for name in ("token", "note"):
        if isinstance(match.get(name), str):
            shown[name] = visible(match[name])
    if match.get("output"):
        own = [visible(text) for text in match["output"]["own_tokens"]]
        next_token = visible(match["output"]["next_token"])
        shown["output"] = {**match["output"], "own_tokens": own, "next_token": next_token}
    if "firings" in match:
        shown["firings"] = [
            {**firing, "text": visible(firing["text"])} for firing in match["firings"]
        ]
    return shown
