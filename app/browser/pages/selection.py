"""The selection page: a file of scored rows with its cut, and a row explained."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from ....sae.common.errors import InputError
from ....sae.common.text import visible_lines
from ....sae.common.validation import require_ratio
from ....steering.features.index import FeatureIndex
from ....steering.selection.explaining import Explanation, FeatureShare
from ....steering.selection.scored_file import ScoredFile
from ..charts import Axis, Band, Mark, histogram
from ..examples import pieces, tokens_markup
from ..known_labels import KnownLabels
from ..rendering import page, session_of
from ..scatter import scatter
from ..score_files import ScoreFiles

router = APIRouter()

_BINS = 40
_ENDS = 8
_PREVIEW = 240
_FEATURES = 12
_SHOWN_TOKENS = 5
_PEAKS = 3
_DEFAULT_RATIO = 0.1


@router.get("/selection")
def files(request: Request) -> Response:
    """The files of scores that are here."""
    found = ScoreFiles.of(session_of(request)).listed()
    return page(request, "selections.html", files=_named(found))


@router.get("/selection/{number}")
def file(request: Request, number: int, ratio: float = _DEFAULT_RATIO) -> Response:
    """One file: its distribution and what a cut at this fraction of the rows would take."""
    require_ratio("ratio", ratio)
    scored = ScoreFiles.of(session_of(request)).open(number)
    cut = scored.cut(ratio)
    top, bottom = scored.order[:_ENDS].tolist(), scored.order[::-1][:_ENDS].tolist()
    previews = _previews(scored)
    return page(
        request,
        "selection.html",
        number=number,
        scored=scored,
        name=scored.path.name,
        ratio=ratio,
        cut=cut,
        distribution=distribution(scored, cut["lowest_taken"]),
        by_length=by_length(scored, cut["lowest_taken"]),
        ends=[
            ("Highest scores", [_row(scored, row, previews[row]) for row in top]),
            ("Lowest scores", [_row(scored, row, previews[row]) for row in bottom]),
        ],
    )


@router.get("/selection/{number}/rows/{row}")
def row(request: Request, number: int, row: int) -> Response:
    """One row, counted from 1, and its score taken apart once the language model is read."""
    session = session_of(request)
    files = ScoreFiles.of(session)
    scored = files.open(number)
    (text,) = scored.texts([row - 1])
    session.start_loading()
    waiting = session.model_status == "loading"
    problem, shown = "", None
    if not waiting:
        try:
            with session.using_model() as loaded:
                found = files.explainer(number, loaded).explain(row, features=_FEATURES)
        except InputError as error:
            problem = str(error)
        else:
            shown = _explained(found, KnownLabels.of(session), session.index)
    place = np.flatnonzero(scored.order == row - 1)
    return page(
        request,
        "selection_row.html",
        number=number,
        scored=scored,
        name=scored.path.name,
        row=row,
        text=visible_lines(text.text),
        rank=int(place[0]) + 1 if len(place) else None,
        score=float(scored.scores_N[row - 1]),
        waiting=waiting,
        problem=problem,
        explained=shown,
    )


def distribution(scored: ScoredFile, lowest_taken: float) -> Markup:
    """How many rows have which score, those that are taken in the second color."""
    scores = scored.scores_N[scored.order]
    low, high = _ends(scores)
    counts, edges = np.histogram(scores, bins=_BINS, range=(low, high))
    return histogram(
        f"Histogram of {len(scores):,} scores from {scores.min():.4g} to {scores.max():.4g}; rows "
        f"with at least {lowest_taken:.4g} are taken",
        edges.tolist(),
        counts.tolist(),
        Axis(f"score ({scored.method or scored.column})", low, high),
        "rows",
        marks=[Mark(lowest_taken, "cut")],
        bands=[Band(lowest_taken, high)],
    )


def by_length(scored: ScoredFile, lowest_taken: float) -> Markup | None:
    """Score against length; None where lengths are not known."""
    if scored.tokens_N is None:
        return None
    known = scored.order[scored.tokens_N[scored.order] >= 1]
    if not len(known):
        return None
    tokens, scores = scored.tokens_N[known], scored.scores_N[known]
    low, high = _ends(scores)
    longest = max(float(tokens.max()), float(tokens.min()) + 1)
    return scatter(
        f"Score against length of {len(known):,} rows; darker cells have more rows",
        tokens,
        scores,
        Axis("tokens of the row", float(tokens.min()), longest, logarithmic=True),
        Axis("score", low, high),
        line=lowest_taken,
        line_name="cut",
    )


def _ends(scores: Any) -> tuple[float, float]:
    low, high = float(scores.min()), float(scores.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _named(found: dict[int, Path]) -> list[dict[str, Any]]:
    """Files with a name that tells them apart: with their folder's where two have the same."""
    names = [path.name for path in found.values()]
    return [
        {
            "number": number,
            "name": path.name if names.count(path.name) == 1 else "/".join(path.parts[-2:]),
        }
        for number, path in found.items()
    ]


@lru_cache(maxsize=4)
def _previews(scored: ScoredFile) -> dict[int, str]:
    """The texts of the rows at both ends; the file is gone through once for it."""
    numbers = [*scored.order[:_ENDS].tolist(), *scored.order[-_ENDS:].tolist()]
    return {number: text.text for number, text in zip(numbers, scored.texts(numbers), strict=True)}


def _row(scored: ScoredFile, row: int, text: str) -> dict[str, Any]:
    tokens = None if scored.tokens_N is None else float(scored.tokens_N[row])
    return {
        "number": row + 1,
        "score": float(scored.scores_N[row]),
        "tokens": None if tokens is None or tokens != tokens else int(tokens),
        "text": text if len(text) <= _PREVIEW else f"{text[:_PREVIEW]}\u2026",
    }


def _explained(found: Explanation, labels: KnownLabels, index: FeatureIndex) -> dict[str, Any]:
    """An explanation as the template shows it."""
    return {
        "found": found,
        "whole": _heat(found.tokens, found.token_shares),
        "features": [_feature(found, each, labels, index) for each in found.features],
        "missing": [_feature(found, each, labels, index) for each in found.missing],
        "extra": [_feature(found, each, labels, index) for each in found.extra],
    }


def _feature(
    found: Explanation, share: FeatureShare, labels: KnownLabels, index: FeatureIndex
) -> dict[str, Any]:
    order = sorted(range(len(found.tokens)), key=lambda place: -share.activations[place])
    firing = [found.tokens[place] for place in order if share.activations[place] > 0]
    return {
        "share": share,
        "called": labels.called(share.feature),
        "peaks": index.peak_texts(share.feature, _PEAKS),
        "tokens": list(dict.fromkeys(text for text in firing if text))[:_SHOWN_TOKENS],
        "of_score": share.share / found.score if found.score else 0.0,
        "text": _heat(found.tokens, share.activations),
    }


def _heat(tokens: tuple[str, ...], values: tuple[float, ...]) -> Markup:
    shown = pieces(tokens, values, None)
    return tokens_markup(shown, max([*values, 0.0]), starts_document=True)
