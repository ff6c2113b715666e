"""Where a feature fires in a text that a person types."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ....sae.common.errors import InputError
from ....sae.common.text import visible
from ..examples import level
from ..rendering import session_of
from ..session import Session

router = APIRouter()

_MOST_CHARACTERS = 20_000
_MOST_TOKENS = 512


class Tried(BaseModel):
    """A text, and the feature to look for in it."""

    text: str
    feature: int


@router.post("/api/activations")
def activations(request: Request, tried: Tried) -> Response:
    """The text's tokens with the feature's activation on each.

    Answers 503 while the language model is still being read.
    """
    session = session_of(request)
    largest = session.index.max_activation(tried.feature)
    if len(tried.text) > _MOST_CHARACTERS:
        raise InputError(f"the text has more than {_MOST_CHARACTERS:,} characters; give less")
    session.start_loading()
    if session.model_status == "loading":
        sentence = f"the language model {session.model_name} is still being read; try again soon"
        error = {"message": sentence, "type": "loading", "code": None}
        return JSONResponse({"error": error}, status_code=503, headers={"Retry-After": "1"})
    values = _activations(session, tried, largest)
    return JSONResponse({"feature": tried.feature, "max_activation": largest, **values})


def _activations(session: Session, tried: Tried, largest: float) -> dict[str, Any]:
    """`tokens`, each with `text` (plainly visible), `activation`, its shade `level`, and whether it
    counts; and whether only the beginning of the text was read (`truncated`)."""
    from ....steering.encoding import encode_texts, read_limit

    with session.using_model() as loaded:
        limit = read_limit(loaded.model, None, _MOST_TOKENS)
        (read,) = encode_texts(*loaded, [tried.text], max_length=limit)
    indices_CM, values_CM = read.codes.indices, read.codes.values
    fires_CM = (indices_CM == tried.feature) & (values_CM > 0)
    found = iter([float(value) for value in (values_CM * fires_CM).sum(dim=-1)])
    ids, kept = [int(id_) for id_ in read.tokens], [bool(counts) for counts in read.kept]
    tokens: list[dict[str, Any]] = []
    for text, counts in zip(session.index.vocabulary.texts(ids), kept, strict=True):
        activation = next(found) if counts else 0.0
        shade = level(activation, largest)
        tokens.append(
            {"text": visible(text), "activation": activation, "level": shade, "counts": counts}
        )
    return {"tokens": tokens, "truncated": read.truncated}
