"""The first page: what is open, and its features, the most interesting first."""

import math
from typing import Any

import numpy as np
from fastapi import APIRouter
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from ....sae.common.errors import InputError
from ....steering.features.index import FeatureIndex
from ..charts import Axis, Band, histogram
from ..examples import snippet_markup
from ..facts import autoencoder_facts, data_facts, held_out_facts, index_facts
from ..feature_facts import short_unit
from ..feature_table import PER_PAGE, Wanted, columns, listed
from ..known_labels import KnownLabels
from ..rendering import page, session_of

router = APIRouter()

_PEAKS = 4
_DENSITY_BINS = 32
_DENSE = 0.1
_SORTS = (
    ("interest", "interest"),
    ("density", "density"),
    ("max_activation", "largest"),
    ("token_explained", "token explained"),
    ("number", "number"),
)
"""What the list can be ordered by, and how it is called."""


@router.get("/")
def overview(request: Request) -> Response:
    """What is open, and a list of features that can be filtered and sorted."""
    session = session_of(request)
    index = session.index
    labels = KnownLabels.of(session)
    wanted = Wanted.from_query(request.query_params)
    numbers = listed(index, labels.picks, labels.machine, wanted)
    n_pages = max(1, math.ceil(len(numbers) / PER_PAGE))
    here = min(wanted.page, n_pages)
    shown = numbers[(here - 1) * PER_PAGE : here * PER_PAGE].tolist()
    sorts = [(name, text) for name, text in _SORTS if name == "number" or name in columns(index)]
    held_out, damage = [], ""
    try:
        held_out = held_out_facts(session.run)
    except InputError as error:
        damage = str(error)
    return page(
        request,
        "overview.html",
        autoencoder=autoencoder_facts(session.run, index),
        data=data_facts(session.run, index) if not damage else [],
        held_out=held_out,
        damage=damage,
        index_facts=index_facts(index),
        density_plot=density_plot(index),
        activation_plot=activation_plot(index),
        wanted=wanted,
        sorts=sorts,
        extra=_last_column(wanted.sort),
        found=len(numbers),
        here=here,
        n_pages=n_pages,
        rows=[_row(index, labels, number) for number in shown],
        progress=session.picks.progress(),
    )


def density_plot(index: FeatureIndex) -> Markup:
    """How many latents fire on which fraction of the rows."""
    density = index.statistics["density"]
    lowest = 10 ** math.floor(math.log10(1 / max(index.manifest["rows"], 10)))
    exponents = np.linspace(math.log10(lowest), 0, _DENSITY_BINS + 1)
    fired = density[density > 0].clip(min=lowest)
    counts = np.histogram(np.log10(fired), bins=exponents)[0]
    never = index.n_latents - len(fired)
    return histogram(
        f"Histogram of density: {len(fired):,} latents by the fraction of rows on which they fire; "
        f"{never:,} never fired",
        [10.0**exponent for exponent in exponents.tolist()],
        counts.tolist(),
        Axis("density: fraction of rows on which a latent fires", lowest, 1, logarithmic=True),
        "latents",
        bands=[Band(_DENSE, 1)],
        ticks_as=lambda fraction: f"{100 * fraction:g}%",
    )


def activation_plot(index: FeatureIndex) -> Markup:
    """How strong the firings of all features are."""
    edges: list[float] = index.manifest["histogram_edges"]
    counts = index.firings
    return histogram(
        f"Histogram of activations: {sum(counts):,} firings of all features by their activation",
        edges,
        counts,
        Axis(
            f"activation ({short_unit(index.manifest['unit'])})",
            edges[0],
            edges[-1],
            logarithmic=True,
        ),
        "firings",
    )


def _last_column(sort: str) -> tuple[str, str]:
    """What the last column shows: what the list is ordered by, unless that is shown anyway."""
    shown_anyway = ("density", "number")
    return next(one for one in _SORTS if one[0] == sort) if sort not in shown_anyway else _SORTS[0]


def _row(index: FeatureIndex, labels: KnownLabels, number: int) -> dict[str, Any]:
    statistics = {name: column[number].item() for name, column in columns(index).items()}
    strongest = index.strongest(number)
    return {
        "number": number,
        "called": labels.called(number),
        "pick": labels.pick(number),
        "peaks": index.peak_texts(number, _PEAKS),
        "snippet": snippet_markup(strongest, strongest.activation) if strongest else "",
        "statistics": statistics,
    }
