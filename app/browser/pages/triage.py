"""Triage: going through features that nobody has reviewed, by keyboard."""

from typing import Any

import numpy as np
from fastapi import APIRouter
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from ....sae.common.errors import InputError
from ....steering.features.feature import Example
from ..examples import example_markup
from ..feature_table import columns
from ..known_labels import KnownLabels
from ..rendering import page, session_of

router = APIRouter()

_MOST_QUEUED = 2000
_TOP_EXAMPLES, _RANDOM_EXAMPLES = 6, 4
_PEAKS = 8
_TOKENS = 6


@router.get("/triage")
def triage_page(request: Request) -> Response:
    """The page with its keys; features come from the queue."""
    return page(request, "triage.html", progress=session_of(request).picks.progress())


@router.get("/api/triage/queue")
def queue(request: Request, limit: int = 500) -> dict[str, Any]:
    """The features that ever fired and nobody has reviewed, the most interesting first, and how far
    the review is."""
    if not 1 <= limit <= _MOST_QUEUED:
        raise InputError(f"limit is {limit}; give 1 to {_MOST_QUEUED}", field="limit")
    session = session_of(request)
    interest = columns(session.index)["interest"]
    is_open = session.index.statistics["fired"] > 0
    fired = int(is_open.sum())
    reviewed = [pick.feature for pick in session.picks.picks().picks if pick.reviewed]
    is_open[reviewed] = False
    numbers = np.flatnonzero(is_open)
    order = numbers[np.argsort(-interest[numbers], kind="stable")]
    return {
        "features": order[:limit].tolist(),
        "left": len(order),
        "fired": fired,
        "progress": session.picks.progress(),
    }


@router.get("/triage/{number}")
def card(request: Request, number: int) -> Response:
    """What one needs to see of a feature to judge it, as a piece of a page."""
    session = session_of(request)
    labels = KnownLabels.of(session)
    feature = session.index.feature(number)

    def example(one: Example) -> Markup:
        return example_markup(one, feature.max_activation)

    return page(
        request,
        "triage_card.html",
        feature=feature,
        called=labels.called(number),
        pick=labels.pick(number),
        peaks=session.index.peak_texts(number, _PEAKS),
        top=feature.top[:_TOP_EXAMPLES],
        random=feature.random[:_RANDOM_EXAMPLES],
        raised=(feature.positive_logits or ())[:_TOKENS],
        example=example,
    )
