"""Whether two features are the same idea: what they share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...sae.autoencoder import WEIGHTS_FILE
from ...sae.common.errors import InputError
from ...steering.features.feature import CoActivation, Feature
from ...steering.features.index import FeatureIndex

_PEAKS = 20


@dataclass(frozen=True)
class Pair:
    """Two features side by side."""

    cosine: float
    """Of their decoder directions, -1 to 1."""
    together: CoActivation | None
    """How the second fires with the first, if it is among those that do so most."""
    tokens: tuple[str, ...]
    """Tokens that both fire most on."""
    promoted: tuple[str, ...]
    """Tokens whose logits both raise most."""
    places: int
    """Rows that are among the strongest examples of both."""


def pair(run: Path, index: FeatureIndex, first: Feature, second: Feature) -> Pair:
    """Compare two features of a run.

    Raises:
        InputError: the autoencoder's weights cannot be read.
    """
    peaks = [index.peak_texts(one.feature, _PEAKS) for one in (first, second)]
    raised = [[token.text for token in one.positive_logits or ()] for one in (first, second)]
    together = (one for one in first.coactivating if one.feature == second.feature)
    rows = [{example.row for example in one.top} for one in (first, second)]
    return Pair(
        cosine=decoder_cosine(run, first.feature, second.feature),
        together=next(together, None),
        tokens=_shared(*peaks),
        promoted=_shared(*raised),
        places=len(rows[0] & rows[1]),
    )


def decoder_cosine(run: Path, first: int, second: int) -> float:
    """The cosine of the decoder directions of two features; only their rows are read.

    Raises:
        InputError: the autoencoder's weights cannot be read.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    path = run / "sae" / WEIGHTS_FILE
    try:
        with cast(Any, safe_open)(path, "pt") as weights:
            rows_FD = weights.get_slice("W_dec")
            directions: list[torch.Tensor] = [rows_FD[n].double() for n in (first, second)]
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error}); restore it") from None
    return float(torch.nn.functional.cosine_similarity(*directions, dim=0))


def _shared(first: list[str], second: list[str]) -> tuple[str, ...]:
    return tuple(text for text in first if text in set(second))
