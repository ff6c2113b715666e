"""Configurations: values out of range and unknown keys are named, with the remedy."""

import json
import math

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import (
    BatchTopKConfig,
    JumpReLUConfig,
    Origin,
    SAEConfig,
    TopAFAConfig,
    TopKConfig,
    build_dataclass,
    config_from_dict,
    config_to_dict,
    require_in_range,
)


@pytest.mark.parametrize(
    "config",
    [
        TopKConfig(8, 32, 4),
        BatchTopKConfig(8, 32, 4, prefixes=(3, 9)),
        TopAFAConfig(8, 32, prefixes=(31,)),
        JumpReLUConfig(8, 32, 0.5),
    ],
)
def test_round_trip(config: SAEConfig) -> None:
    values = json.loads(json.dumps(config_to_dict(config)))
    assert config_from_dict(values, "here") == config
    assert ("prefixes" in values) == bool(config.prefixes)


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
        (
            {"d_model": 8, "n_latents": 32, "k": 3, "prefixes": [4, 4]},
            "prefixes are 4, 4",
        ),
        ({"d_model": 8, "n_latents": 32, "k": 3, "prefixes": [32]}, "do not rise below the 32"),
        ({"d_model": 8, "n_latents": 32, "k": 3, "prefixes": [0.5]}, "prefixes is 0.5"),
        ({"d_model": 8, "n_latents": 32, "k": 3, "prefixes": 5}, "prefixes is 5, but must be a li"),
        ({"d_model": 8, "n_latents": 32, "k": 3, "transcoder": None}, "transcoder is None, but"),
        ({"d_model": 8, "n_latents": 2**63, "k": 3}, "n_latents is 9223372036854775808, but must"),
        ({"activation": ["topk"]}, "activation is \\['topk'\\], which must be one of"),
        ({"activation": {}}, "activation is {}, which must be one of"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        config_from_dict({"activation": "topk", **values}, "config.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bandwidth", [0, -1, math.nan])
@pytest.mark.usefixtures("without_type_checks")
def test_a_bandwidth_out_of_range_is_named(bandwidth: float) -> None:
    with pytest.raises(InputError, match="bandwidth is"):
        JumpReLUConfig(8, 32, bandwidth)


def test_an_unknown_activation_lists_the_known() -> None:
    with pytest.raises(
        InputError, match="'relu', which must be one of topk, batch_topk, top_afa, jumprelu"
    ):
        config_from_dict({"activation": "relu"}, "config.json")


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1, "1", None, True])
@pytest.mark.usefixtures("without_type_checks")
def test_numbers_outside_the_range_are_refused(value: object) -> None:
    with pytest.raises(InputError, match="rate is"):
        require_in_range("rate", value, low=0, high=1)


@pytest.mark.parametrize("name", ["model", "site", "weights_hash", "target_site"])
@pytest.mark.usefixtures("without_type_checks")
def test_an_origin_is_text(name: str) -> None:
    values = {"model": "m", "site": "s", "weights_hash": "h", "target_site": "t", name: 5}
    with pytest.raises(InputError, match=f"{name} is 5, but must be text"):
        build_dataclass(Origin, values, "config.json")
