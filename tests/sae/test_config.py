"""Configurations: values out of range and unknown keys are named, with the remedy."""

import math

import pytest

from sparsteer.sae.config import (
    TopAFAConfig,
    TopKConfig,
    config_from_dict,
    config_to_dict,
    require_in_range,
)
from sparsteer.sae.errors import InputError


@pytest.mark.parametrize("config", [TopKConfig(8, 32, 4), TopAFAConfig(8, 32)])
def test_round_trip(config: TopKConfig | TopAFAConfig) -> None:
    assert config_from_dict(config_to_dict(config), "here") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_model": 8, "n_latents": 32, "k": 33}, "k is 33, but there are only 32 latents"),
        ({"d_model": 8, "n_latents": 32, "k": 0}, "k is 0"),
        ({"d_model": 0, "n_latents": 32, "k": 3}, "d_model is 0"),
        ({"d_model": 8, "n_latents": 3.5, "k": 3}, "n_latents is 3.5"),
        ({"d_model": 8, "n_latents": True, "k": 3}, "n_latents is True"),
        ({"d_model": 8, "n_latents": 32, "k": "3"}, "k is '3'"),
        ({"d_model": 8, "n_latent": 32, "k": 3}, "no key 'n_latent'; did you mean n_latents?"),
        ({"d_model": 8, "n_latents": 32}, "the key 'k' is missing"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        config_from_dict({"activation": "topk", **values}, "config.json")
    assert "\n" not in str(caught.value)


def test_an_unknown_activation_lists_the_known() -> None:
    with pytest.raises(InputError, match="'relu', which must be one of topk, top_afa"):
        config_from_dict({"activation": "relu"}, "config.json")


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1, "1", None, True])
@pytest.mark.usefixtures("without_type_checks")
def test_numbers_outside_the_range_are_refused(value: object) -> None:
    with pytest.raises(InputError, match="rate is"):
        require_in_range("rate", value, low=0, high=1)
