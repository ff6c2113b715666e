"""The page of one feature, and of two side by side."""

from typing import Any

from fastapi import APIRouter
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ....sae.common.errors import InputError
from ....sae.common.wording import count
from ....steering.features.feature import Example, Feature, RankedToken
from ..examples import example_markup
from ..feature_facts import activation_plot, feature_facts, histogram_rows, short_unit
from ..feature_table import columns
from ..groups import groups
from ..known_labels import KnownLabels
from ..pairs import pair
from ..rendering import page, session_of
from ..session import Session

router = APIRouter()

_PEAKS = 8
_PEAKS_OF_OTHERS = 3
_SHOWN_BESIDE = 8


@router.get("/features")
def go_to_feature(number: str = "") -> Response:
    """To the page of the feature whose number was typed."""
    if not (number.strip().isdecimal() and len(number) < 12):
        raise InputError(f"{number!r} is no number of a feature; give a whole number from 0")
    return RedirectResponse(f"/features/{int(number)}", status_code=303)


@router.get("/features/{number}")
def feature_page(request: Request, number: int) -> Response:
    """Everything that the index holds of a feature, and its pick."""
    session = session_of(request)
    index, labels = session.index, KnownLabels.of(session)
    feature = index.feature(number)
    interest = columns(index)["interest"][number].item()

    def example(one: Example) -> Markup:
        return example_markup(one, feature.max_activation)

    return page(
        request,
        "feature.html",
        feature=feature,
        pick=labels.pick(number),
        called=labels.called(number),
        machine=labels.machine.get(number),
        peaks=index.peak_texts(number, _PEAKS),
        facts=feature_facts(feature, interest, index.manifest["rows"]),
        plot=activation_plot(feature, short_unit(index.manifest["unit"])),
        histogram_rows=histogram_rows(feature),
        groups=groups(feature),
        example=example,
        logits=logits(feature),
        neighbors=[
            {"other": one, **_other(session, labels, one.feature)} for one in feature.neighbors
        ],
        coactivating=[
            {"other": one, **_other(session, labels, one.feature)} for one in feature.coactivating
        ],
        last=index.n_latents - 1,
    )


@router.get("/features/{number}/beside/{other}")
def beside(request: Request, number: int, other: int) -> Response:
    """Two features side by side, to see whether they are the same idea."""
    session = session_of(request)
    index, labels = session.index, KnownLabels.of(session)
    both = [index.feature(number), index.feature(other)]
    return page(
        request,
        "beside.html",
        pair=pair(session.run, index, *both),
        sides=[
            {
                "feature": feature,
                "called": labels.called(feature.feature),
                "peaks": index.peak_texts(feature.feature, _PEAKS),
                "logits": logits(feature),
                "examples": [
                    example_markup(one, feature.max_activation)
                    for one in feature.top[:_SHOWN_BESIDE]
                ],
            }
            for feature in both
        ],
        n_coactivating=count(len(both[0].coactivating)),
    )


def logits(feature: Feature) -> list[dict[str, Any]]:
    """The tokens that a feature raises and lowers, each with the length of its bar in percent."""
    lists: list[tuple[str, tuple[RankedToken, ...] | None, str]] = [
        ("Raises", feature.positive_logits, "bar"),
        ("Lowers", feature.negative_logits, "bar second"),
        ("Raises at the end of the model (J-lens)", feature.lens, "bar"),
    ]
    found: list[dict[str, Any]] = []
    for title, tokens, kind in lists:
        if tokens:
            largest = max(abs(token.logit) for token in tokens) or 1.0
            rows = [(token, round(100 * abs(token.logit) / largest)) for token in tokens]
            found.append({"title": title, "kind": kind, "rows": rows})
    return found


def _other(session: Session, labels: KnownLabels, number: int) -> dict[str, Any]:
    """What a list says of another feature."""
    return {
        "called": labels.called(number),
        "peaks": session.index.peak_texts(number, _PEAKS_OF_OTHERS),
    }
