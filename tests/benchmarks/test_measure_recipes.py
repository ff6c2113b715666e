"""The study of training recipes: what it trains, and how it compares."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.training.config import TrainConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # pyright: ignore[reportUnknownMemberType] - untyped
    return import_module("measure_recipes")


def test_every_recipe_can_be_trained_and_differs_from_plain_by_its_option_alone(study: Any) -> None:
    arguments = study.parsed(["cache", "runs"])
    everything = study.chosen(arguments)
    assert {one.family for one in everything} == set(study.FAMILIES)
    configs: dict[str, TrainConfig] = {
        one.name: study.config_of(one, 1, arguments) for one in everything
    }
    assert len({config.out for config in configs.values()}) == len(everything)
    for one in everything:
        config, plain = configs[one.name], configs[one.activation]
        sae_config: Any = config.sae_config(576)
        assert sae_config.n_latents == 4096 and config.trainer.seed == 1
        l0 = sae_config.k if one.activation == "topk" else config.trainer.target_l0
        assert l0 == 64
        usual: dict[str, Any] = vars(plain.trainer)
        unchanged = {name for name, value in one.trainer.items() if usual[name] == value}
        assert changed(plain, config) == {*one.options, *one.trainer} - unchanged


def changed(plain: TrainConfig, other: TrainConfig) -> set[str]:
    """The settings in which two configurations differ, but for the folder."""
    before: dict[str, Any] = vars(plain) | vars(plain.trainer)
    after: dict[str, Any] = vars(other) | vars(other.trainer)
    names = {name for name, value in after.items() if before.get(name) != value}
    return names - {"out", "trainer", "loss_terms"}


def test_only_some_are_trained_beside_the_plain_ones_they_need(study: Any) -> None:
    words = ["cache", "runs", "--only", "lista", "--lista", "0.1", "0.3"]
    names = [one.name for one in study.chosen(study.parsed(words))]
    assert names == ["topk", "topk-lista0.1", "topk-lista0.3"]
    assert [one.name for one in study.chosen(study.parsed(["c", "r", "--only", "quadratic"]))] == [
        "jumprelu",
        "jumprelu-quadratic",
    ]


def test_differences_are_of_the_same_seed(study: Any) -> None:
    plain = [dict.fromkeys(study.FIGURES, value) for value in (1.0, 3.0)]
    own = [dict.fromkeys(study.FIGURES, value) for value in (1.5, 3.5)]
    everything = study.chosen(study.parsed(["c", "r", "--only", "lista"]))
    first, second = study.rows_of(everything, {"topk": plain, "topk-lista0.3": own})
    assert len(first) == len(second) == len(study.HEADER)
    assert first[2:4] == ["2.0000 ± 1.4142", ""]
    assert second[2:4] == ["2.5000 ± 1.4142", "+0.5000 ± 0.0000"]


def test_the_nearest_decoder_row(study: Any) -> None:
    sae = SparseAutoencoder(TopKConfig(6, 40, 3))
    unit = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-1)
    assert study.nearest_cosine(sae) == pytest.approx(float(cosines.amax(1).mean()))
