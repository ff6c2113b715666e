"""Model cards of autoencoders that others cannot hold, or hold otherwise."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.app.publish.card import card
from sparsteer.app.publish.config import PublishConfig
from sparsteer.app.publish.source import Published, without_paths
from sparsteer.sae import BatchTopKConfig, JumpReLUConfig, TopAFAConfig
from sparsteer.sae.config import SAEConfig
from sparsteer.sae.interop.push import write_layouts

from ...hub_stand_in import HubStandIn
from ...sae.random_sae import random_sae

NAME = "owner/saes"
D, F = 13, 57


def published(config: SAEConfig) -> Published:
    """A run of a random autoencoder."""
    measured = {"rows": 10, "fvu": 0.5, "explained_variance": 0.5, "l0": 4.0, "l0_std": 0.0}
    measured |= {"dead_fraction": 0.0, "dense_fraction": 0.0}
    summary = {"held_out": measured, "tokens": 100, "steps": 2, "seconds": 3.0, "warnings": ["few"]}
    return Published(
        config=PublishConfig(run="run", repo=NAME),
        sae=random_sae(config),
        settings={},
        environment={},
        summary=summary,
        points=[],
        evaluation=None,
    )


def blocks(text: str) -> list[str]:
    """The Python of a card."""
    return [part.partition("```")[0] for part in text.split("```python\n")[1:]]


@pytest.mark.parametrize("config", [BatchTopKConfig(D, F, 5), JumpReLUConfig(D, F)], ids=str)
def test_latents_above_a_threshold_are_loaded_with_torch_alone(
    config: SAEConfig, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "token-of-owner")
    one = published(config)
    one.sae.push_to_hub(NAME)
    assert "saelens/cfg.json" in hub.repositories[NAME].files()
    alone = blocks(card(one, plots={}, no_saelens=None, index=None))[2]
    names: dict[str, Any] = {}
    exec(alone, names)
    codes = one.sae.encode(names["x"])
    torch.testing.assert_close(names["latents"] * one.sae.input_scale, codes.dense(F))
    torch.testing.assert_close(names["x_hat"], one.sae(names["x"]))


def test_what_saelens_cannot_hold_is_said(
    hub: HubStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "token-of-owner")
    one = published(TopAFAConfig(D, F))
    one.sae.push_to_hub(NAME)
    assert set(hub.repositories[NAME].files()) & {"saelens/cfg.json"} == set()
    text = card(one, plots={}, no_saelens=write_layouts(one.sae, tmp_path), index=None)
    assert "There is no folder for SAELens: activation is top_afa, for which SAELens has" in text
    assert "\n- saelens\n" not in text and "- Caution: few." in text
    for code in blocks(text):
        exec(code, {})


def test_settings_lose_the_paths_of_this_machine() -> None:
    here = Path.cwd()
    within = {"x": str(here / "c"), "n": 1}
    settings = {"model": str(here / "b"), "many": [f"{here}/*.txt", "a/b"], "in": within}
    reduced = {"model": "./b", "many": ["./*.txt", "a/b"], "in": {"x": "./c", "n": 1}}
    assert without_paths(settings) == reduced
