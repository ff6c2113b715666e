"""A model folder with the vector in a bias, for each architecture that has one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.export.exporting import export_intervention
from sparsteer.steering.export.transformers_folder import LAST_LAYERS, LastLayer
from sparsteer.steering.interventions.steering import steer

from ..model_families import save_model
from .conftest import two_features

auto_model: Any = AutoModelForCausalLM  # transformers leaves its types open
auto_tokenizer: Any = AutoTokenizer


@pytest.mark.parametrize("site", ["blocks.2.hook_resid_post", "blocks.1.hook_resid_pre"])
@pytest.mark.parametrize("family", LAST_LAYERS)
@pytest.mark.slow_except(
    "llama-blocks.2.hook_resid_post",
    "gpt2-blocks.1.hook_resid_pre",
    "gpt_neox-blocks.2.hook_resid_post",
)
def test_the_folder_gives_the_steered_logits(
    family: str, site: str, sae: SparseAutoencoder, tmp_path: Path
) -> None:
    save_model(family, tmp_path / "model")
    model, spec = LanguageModel.load(str(tmp_path / "model")), two_features(site)
    export_intervention(model, sae, spec, tmp_path / "out", "transformers")
    baked = auto_model.from_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()
    tokens = torch.randint(3, 259, (3, 17))
    with torch.no_grad():
        found = baked(tokens).logits
    with steer(model, sae, spec):
        expected = model.logits(tokens)
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 1e-5 * scale
    assert (model.logits(tokens) - expected).abs().max() > 1e-3 * scale
    tokenizer = auto_tokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("abc")["input_ids"] == model.tokenize("abc")


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
@pytest.mark.slow_except("qwen3")
def test_an_architecture_without_a_bias_is_refused(
    family: str, sae: SparseAutoencoder, tmp_path: Path
) -> None:
    save_model(family, tmp_path / "model")
    model = LanguageModel.load(str(tmp_path / "model"))
    with pytest.raises(InputError, match=f"architecture {family}, whose blocks end without a bias"):
        export_intervention(model, sae, two_features(), tmp_path / "out", "transformers")
    assert [item.name for item in tmp_path.iterdir()] == ["model"]


def test_a_bias_at_the_wrong_place_is_found(
    sae: SparseAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention's bias reaches the residual stream before the MLP reads it."""
    monkeypatch.setitem(LAST_LAYERS, "gpt2", LastLayer("transformer.h.{}.attn.c_proj"))
    save_model("gpt2", tmp_path / "model")
    model = LanguageModel.load(str(tmp_path / "model"))
    with pytest.raises(InputError, match="gives other logits than steered"):
        export_intervention(model, sae, two_features(), tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()


def test_bfloat16_is_kept(tiny_model_folder: Path, sae: SparseAutoencoder, tmp_path: Path) -> None:
    model = LanguageModel.load(str(tiny_model_folder), dtype="bfloat16")
    export_intervention(model, sae, two_features(), tmp_path / "out", "transformers")
    baked = auto_model.from_pretrained(tmp_path / "out")
    assert {weight.dtype for weight in baked.parameters()} == {torch.bfloat16}
