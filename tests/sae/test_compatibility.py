"""An autoencoder is refused where width or weights are not its own, and one place decides it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.compatibility import require_fits
from sparsteer.sae.config import Origin, TopKConfig

ORIGIN = Origin(model="tiny", site="blocks.1.hook_resid_post", weights_hash="a" * 64)


def cached(**changes: Any) -> Any:
    told = {"path": Path("c"), "d_model": 8, "model": "tiny", "weights_hash": "a" * 64}
    return SimpleNamespace(**(told | changes))


def placed(width: int) -> Any:
    return SimpleNamespace(name="blocks.1", width=width, model=SimpleNamespace(name="tiny"))


@pytest.mark.usefixtures("without_type_checks")
def test_what_fits_is_said_nothing_of() -> None:
    said: list[str] = []
    sae = SparseAutoencoder(TopKConfig(8, 20, 2), origin=ORIGIN)
    require_fits(sae, site=placed(8), cache=cached(), say=said.append)
    sae.origin = None
    require_fits(sae, cache=cached(weights_hash="b" * 64), say=said.append)
    assert said == []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"site": placed(9)},
            "mine reads activations of width 8, but blocks.1 of tiny has width 9; give the model "
            "and site it was trained on",
        ),
        (
            {"cache": cached(d_model=9)},
            "mine reads activations of width 8, but c has width 9; give a cache of the model it "
            "was trained on",
        ),
        (
            {"cache": cached(model="big", weights_hash="b" * 64)},
            "big, the model of c, has other weights than tiny, with which mine was made; give a "
            "cache of the model it was trained on, or --allow-other-weights to use it all the same",
        ),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_what_does_not_fit_is_refused(given: dict[str, Any], sentence: str) -> None:
    sae = SparseAutoencoder(TopKConfig(8, 20, 2), origin=ORIGIN)
    with pytest.raises(InputError) as caught:
        require_fits(sae, of="mine", **given)
    assert str(caught.value) == sentence


@pytest.mark.usefixtures("without_type_checks")
def test_other_weights_may_be_allowed_and_another_width_not() -> None:
    said: list[str] = []
    sae = SparseAutoencoder(TopKConfig(8, 20, 2), origin=ORIGIN)
    other = cached(weights_hash="b" * 64)
    require_fits(sae, cache=other, allow_other_weights=True, say=said.append)
    (sentence,) = said
    assert sentence.endswith("with which the autoencoder was made; it is used all the same")
    with pytest.raises(InputError, match="width 9"):
        require_fits(sae, cache=cached(d_model=9), allow_other_weights=True)
