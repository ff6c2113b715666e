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
)


@pytest.mark.parametrize(
    "config",
    [
        TopKConfig(8, 32, 4),
        BatchTopKConfig(8, 32, 4, prefixes=(3, 9)),
        TopAFAConfig(8, 32, prefixes=(31,)),
        TopAFAConfig(8, 32, target_scale=0.7, learned_scale=True),
        JumpReLUConfig(8, 32, 0.5),
    ],
)
def test_round_trip(config: SAEConfig) -> None:
    values = json.loads(json.dumps(config_to_dict(config)))
    assert config_from_dict(values, "here") == config
    assert ("prefixes" in values) == bool(config.prefixes)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"k": 33}, "k"),
        ({"k": 0}, "k"),
        ({"d_model": 0}, "d_model"),
        ({"n_latents": 3.5}, "n_latents"),
        ({"n_latents": True}, "n_latents"),
        ({"k": "3"}, "k"),
        ({"prefixes": [4, 4]}, "prefixes"),
        ({"prefixes": [32]}, "prefixes"),
        ({"prefixes": [0.5]}, "prefixes"),
        ({"prefixes": 5}, "prefixes"),
        ({"transcoder": None}, "transcoder"),
        ({"n_latents": 2**63}, "n_latents"),
        ({"activation": ["topk"]}, "activation"),
        ({"activation": {}}, "activation"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_values_are_named(values: dict[str, object], field: str) -> None:
    whole = {"activation": "topk", "d_model": 8, "n_latents": 32, "k": 3, **values}
    with pytest.raises(InputError, match=rf"^config.json: {field} (is|are) ") as caught:
        config_from_dict(whole, "config.json")
    assert caught.value.field == field and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_latent": 32}, "config.json: there is no key 'n_latent'; did you mean n_latents?"),
        ({}, "config.json: the key 'n_latents' is missing; add it."),
    ],
)
def test_wrong_keys_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        config_from_dict({"activation": "topk", "d_model": 8, "k": 3, **values}, "config.json")
    assert str(caught.value) == message and caught.value.field is None


@pytest.mark.parametrize("bandwidth", [0, -1, math.nan])
@pytest.mark.usefixtures("without_type_checks")
def test_a_bandwidth_out_of_range_is_named(bandwidth: float) -> None:
    with pytest.raises(InputError) as caught:
        JumpReLUConfig(8, 32, bandwidth)
    assert caught.value.field == "bandwidth"


def test_an_unknown_activation_lists_the_known() -> None:
    with pytest.raises(
        InputError,
        match="'rely', which must be one of topk, batch_topk, top_afa, jumprelu, relu, gated",
    ):
        config_from_dict({"activation": "rely"}, "config.json")


@pytest.mark.parametrize("name", ["model", "site", "weights_hash", "target_site"])
@pytest.mark.usefixtures("without_type_checks")
def test_an_origin_is_text(name: str) -> None:
    values = {"model": "m", "site": "s", "weights_hash": "h", "target_site": "t", name: 5}
    with pytest.raises(InputError, match=f"^config.json: {name} is 5, but must be text$") as caught:
        build_dataclass(Origin, values, "config.json")
    assert caught.value.field == name
