"""The playground's page, and what it asks for besides texts, which come from the endpoint."""

import threading
from collections.abc import Sequence
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import HTMLResponse

from ....sae.common.errors import InputError
from ....sae.common.registry import Registry
from ....sae.common.text import visible
from ....steering.generation import INCOHERENT_REPETITION, repetition_of
from ....steering.loading import LoadedRun
from ....steering.reading_back import read_back
from ....steering.registries import DIRECTIONS, FEATURE_EDITS, FEATURE_GATES
from ....steering.residual import ResidualSample, residual_sample
from ....steering.sweep import INCOHERENT_PERPLEXITY, STRENGTHS
from ..playground_settings import Beginning, Chosen, Text, command_line, intervention_of
from ..rendering import page, session_of
from ..session import Session

router = APIRouter()

_MOST_FEATURES = 64
_SAMPLED_FEATURES = 24
_EXAMPLES_OF_EACH = 2


@router.get("/playground")
def playground(request: Request) -> HTMLResponse:
    """The page; its scripts fetch the rest."""
    return page(request, "playground.html", incoherent_perplexity=INCOHERENT_PERPLEXITY)


@router.get("/api/playground")
def choices(request: Request) -> dict[str, Any]:
    """The picks, and what can be chosen: tiers, edits and directions with a line about each."""
    session = session_of(request)
    picks = [_feature(session, pick.feature) for pick in session.picks.picks().picks]
    return {
        "run": str(session.run),
        "site": session.site,
        "picks": [each for each in picks if each["max_activation"] > 0],
        "tiers": _meanings(FEATURE_GATES),
        "edits": _meanings(FEATURE_EDITS),
        "directions": _meanings(DIRECTIONS),
        "strengths": STRENGTHS,
        "token_limit": session.config.token_limit,
    }


@router.get("/api/playground/feature/{number}")
def feature(request: Request, number: int) -> dict[str, Any]:
    """A feature that can be steered: its largest activation, and its label if it is picked."""
    found = _feature(session_of(request), number)
    if found["max_activation"] <= 0:
        raise InputError(f"feature {number} never fired on the index's texts; choose another one")
    return found


@router.get("/api/playground/model")
def model(request: Request) -> dict[str, Any]:
    """What only the language model knows, once it is read: whether it chats, and how long the
    activations at the site are."""
    session = session_of(request)
    sample = residual(session)
    return {
        "chat": bool(getattr(session.loaded.model.tokenizer, "chat_template", None)),
        "median_norm": sample.median_norm,
        "sampled_tokens": len(sample.rows_ND),
        "sampled_texts": sample.n_texts,
    }


class Steered(BaseModel):
    """A request about an intervention."""

    model_config = ConfigDict(extra="forbid")
    steering: dict[str, Any]
    prompt: Text = ""
    chat: bool = False
    chosen: Chosen = Chosen()


@router.post("/api/playground/intervention")
def intervention(request: Request, asked: Steered) -> dict[str, Any]:
    """The whole intervention, the command that writes with it, and how large its push is beside
    the residual: for each feature at strength 1 where features are all there is, and all
    together."""
    session = session_of(request)
    full = intervention_of(session, asked.steering)
    _require_few(full.features)
    values = full.to_dict()
    sample, sae = residual(session), session.loaded.sae
    fractions: dict[str, float] = {}
    for one in values.get("features", []):
        alone = {**values, "features": [{**one, "strength": 1.0, "sign": 1}]}
        fractions[str(one["index"])] = sample.fraction(intervention_of(session, alone), sae)
    return {
        "intervention": values,
        "command": command_line(session, asked.chosen, asked.prompt, chat=asked.chat),
        "fractions": fractions,
        "together": sample.fraction(full, sae),
    }


class Written(BaseModel):
    """A text that was written after a beginning."""

    model_config = ConfigDict(extra="forbid")
    beginning: Beginning
    text: Text
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=10_000)] = []
    """Ids of its tokens as they were written; without them it is tokenized anew, which may cut it
    otherwise."""
    features: Annotated[list[int], Field(max_length=_MOST_FEATURES)] = []


@router.post("/api/playground/read")
def read(request: Request, written: Written) -> dict[str, Any]:
    """How the unsteered model reads a text: perplexity, repetition, mean activation of features."""
    session, engine = session_of(request), session_of(request).engine
    units = {number: session.index.max_activation(number) for number in written.features}
    prompt = written.beginning.tokens(session)
    given = engine.model.require_embedded(written.tokens, "the text")
    tokens = given or engine.model.tokenize(written.text)
    most = session.config.prompt_limit + session.config.token_limit
    if len(prompt) + len(tokens) > most:
        raise InputError(
            f"prompt and text have {len(prompt) + len(tokens)} tokens, and this server reads at "
            f"most {most}; shorten them, or start the server with a larger --prompt-limit"
        )
    tokens = tokens[: max(0, engine.model.max_context - len(prompt))]
    with session.using_model():  # the engine's model, which is the faster one
        fast = LoadedRun(engine.model, engine.site, engine.sae)
        found = read_back(fast, prompt, tokens, written.features)
    repetition = repetition_of(tokens)
    return {
        "perplexity": found.perplexity,
        "repetition": repetition,
        "likely_incoherent": repetition > INCOHERENT_REPETITION,
        "activations": {
            str(number): value / units[number]
            for number, value in found.activations.items()
            if units[number] > 0
        },
    }


_SAMPLES: WeakKeyDictionary[Session, ResidualSample] = WeakKeyDictionary()
_SAMPLING = threading.Lock()


def residual(session: Session) -> ResidualSample:
    """Activations at the site, read once from examples of features spread over the index."""
    with _SAMPLING:
        if session not in _SAMPLES:
            texts = _example_texts(session)
            with session.using_model() as loaded:
                _SAMPLES[session] = residual_sample(loaded, texts)
        return _SAMPLES[session]


def _example_texts(session: Session) -> list[tuple[int, ...]]:
    """Token ids of random examples of features that fire, spread over the index."""
    index = session.index
    firing = [number for number, n in enumerate(index.statistics["fired"]) if n > 0]
    step = max(1, len(firing) // _SAMPLED_FEATURES)
    return [
        example.tokens
        for number in firing[::step][:_SAMPLED_FEATURES]
        for example in index.feature(number).random[:_EXAMPLES_OF_EACH]
    ]


def _feature(session: Session, number: int) -> dict[str, Any]:
    largest = session.index.max_activation(number)
    pick = session.picks.get(number)
    return {
        "feature": number,
        "label": "" if pick is None else visible(pick.label),
        "strength": 1.0 if pick is None else pick.strength,
        "max_activation": largest,
        "fires_on": [visible(text) for text in session.index.peak_texts(number, 4)],
    }


def _meanings(registry: Registry[Any]) -> list[dict[str, str]]:
    """Each name, and the first line of what is said of it."""
    return [
        {"name": name, "meaning": (registry.get(name).__doc__ or "").strip().partition("\n")[0]}
        for name in registry.names()
    ]


def _require_few(features: Sequence[object]) -> None:
    if len(features) > _MOST_FEATURES:
        raise InputError(
            f"{len(features)} features are steered at once; the playground takes at most "
            f"{_MOST_FEATURES}"
        )
