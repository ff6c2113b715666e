"""Results of the playground: saved, listed, opened again and given as an intervention's file."""

import json
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from ....sae.common.text import visible
from ....sae.fingerprint import sae_fingerprint
from ..playground_settings import Chosen, Text, command_line, intervention_of
from ..rendering import session_of
from ..saved_results import SavedResults

router = APIRouter()

COLUMNS = ("base", "steered", "prompted")
_MOST_TURNS = 50


class ResultRequest(BaseModel):
    """What a page wants saved: the settings, and the texts that they gave."""

    model_config = ConfigDict(extra="forbid")
    title: Annotated[str, Field(max_length=200)] = ""
    chat: bool = False
    turns: Annotated[list[Text], Field(min_length=1, max_length=_MOST_TURNS)]
    """The prompt, or the user's messages of a chat."""
    instruction: Text = ""
    """What the column that is only instructed gets before the prompt, or as system message."""
    chosen: Chosen
    steering: dict[str, Any]
    texts: dict[str, Annotated[list[Text], Field(max_length=_MOST_TURNS)]]
    """For each column, its text after each turn."""
    measures: dict[str, dict[str, Any]] = {}
    """What was measured of each column's last text."""
    sweep: Annotated[list[dict[str, Any]], Field(max_length=100)] = []


@router.post("/api/playground/results")
def save(request: Request, asked: ResultRequest) -> dict[str, str]:
    """Save a result; the answer has its id and address."""
    session = session_of(request)
    intervention = intervention_of(session, asked.steering)
    asked.chosen.sampling(session.config.token_limit)
    loaded = session.loaded
    values = {
        "title": asked.title or _beginning(asked.turns[0]),
        "run": str(session.run),
        "model": loaded.model.name,
        "weights_hash": loaded.model.weights_hash,
        "model_dtype": loaded.model.dtype_name,
        "sae": sae_fingerprint(loaded.sae),
        "intervention": intervention.to_dict(),
        "chosen": asked.chosen.model_dump(),
        "chat": asked.chat,
        "turns": asked.turns,
        "instruction": asked.instruction,
        "texts": {name: asked.texts.get(name, []) for name in COLUMNS},
        "measures": asked.measures,
        "sweep": asked.sweep,
    }
    id_ = SavedResults(session.run).save(values)
    return {"id": id_, "address": f"/playground?result={id_}"}


@router.get("/api/playground/results")
def listed(request: Request) -> dict[str, Any]:
    """The saved results, the newest first."""
    found = SavedResults(session_of(request).run).listed()
    return {"results": [{**each, "title": visible(each.get("title") or "")} for each in found]}


@router.get("/api/playground/results/{id_}")
def opened(request: Request, id_: str) -> dict[str, Any]:
    """A saved result, with the command that writes its texts, and a sentence if it was made with
    another autoencoder or model than those open now."""
    session = session_of(request)
    values = SavedResults(session.run).read(id_)
    same = values["sae"] == session.index.manifest["sae"]
    known = session.index.manifest.get("weights_hash")
    warning = ""
    if not same:
        warning = "this result is of another autoencoder, whose features have other meanings"
    elif known is not None and values["weights_hash"] != known:
        warning = "this result was written by a language model with other weights"
    file = f"intervention-{id_}.json"
    prompt = values["turns"][0]
    chosen = Chosen(**values["chosen"])
    command = command_line(session, chosen, prompt, chat=values["chat"], file=file)
    return {**values, "warning": warning, "command": command}


@router.get("/api/playground/results/{id_}/intervention")
def download(request: Request, id_: str) -> Response:
    """The intervention of a saved result as the file that `generate --intervention` reads."""
    values = SavedResults(session_of(request).run).read(id_)
    name = f'attachment; filename="intervention-{values["id"]}.json"'
    text = json.dumps(values["intervention"], indent=2, allow_nan=False) + "\n"
    return Response(text, media_type="application/json", headers={"Content-Disposition": name})


def _beginning(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
