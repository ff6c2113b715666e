"""What other tools read: the vector in the model's own units, after the right block."""

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.checksums import read_checked_json
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.sae.language_model.sites import read_sites
from sparsteer.steering.export.exporting import RECORD, export_intervention
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.spec import Edit
from sparsteer.steering.interventions.steering import steer
from sparsteer.steering.interventions.vectors import Vectors
from sparsteer.steering.registries import STEERING_FORMATS

from .conftest import SITE, TWO, two_features

FILE_FORMATS = ("lm-eval", "gguf", "easysteer", "hotwire")


def by_definition(sae: SparseAutoencoder) -> torch.Tensor:
    """Sum of strength * sign * largest activation * decoder row / input scale."""
    one, other = (
        each.sign * each.strength * each.max_activation * sae.W_dec[each.index] for each in TWO
    )
    return ((one + other) / 2.7).detach()


def read_back(format: str, folder: Path) -> tuple[int, torch.Tensor]:
    """The block and the vector that a file names."""
    if format == "lm-eval":
        content = torch.load(folder / "steering.pt", weights_only=True)
        ((name, entry),) = content.items()
        assert (entry["action"], entry["bias"], entry["head_index"]) == ("add", None, None)
        assert name.startswith("layers.")
        return int(name.split(".")[1]), entry["steering_vector"] * entry["steering_coefficient"]
    if format == "hotwire":
        vectors = torch.load(folder / "steering.pt", weights_only=True)
        (layer,) = vectors.any(dim=1).nonzero()[0].tolist()
        assert len(vectors) == 3 and int(vectors.any(dim=1).sum()) == 1
        return layer, vectors[layer]
    reader = gguf.GGUFReader(folder / "steering.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == 1
    assert fields.get("controlvector.method") == ("sae" if format == "easysteer" else None)
    (tensor,) = reader.tensors
    assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
    return int(tensor.name.removeprefix("direction.")), torch.tensor(tensor.data)


@pytest.mark.parametrize("site", [SITE, "blocks.2.hook_resid_pre"])
@pytest.mark.parametrize("format", FILE_FORMATS)
def test_a_file_holds_the_vector_that_steering_adds(
    format: str, site: str, tiny_model: LanguageModel, sae: SparseAutoencoder, tmp_path: Path
) -> None:
    spec = two_features(site)
    export_intervention(tiny_model, sae, spec, tmp_path / "out", format)
    layer, vector_D = read_back(format, tmp_path / "out")
    assert layer == 1
    torch.testing.assert_close(vector_D, by_definition(sae))
    record = read_checked_json(tmp_path / "out" / RECORD, "record")
    assert Intervention.from_dict(record["intervention"]) == spec
    assert (record["format"], record["site"], record["after_block"]) == (format, site, 1)


def test_a_fitted_vector_is_exported_without_an_autoencoder(
    tiny_model: LanguageModel, tmp_path: Path
) -> None:
    v_D = torch.randn(tiny_model.d_model)
    add = Edit(kind="add", site=SITE, strength=-2.0, vectors=Vectors({"v": v_D}))
    spec = Intervention(edits=(add,))
    export_intervention(tiny_model, None, spec, tmp_path / "out", "hotwire")
    layer, vector_D = read_back("hotwire", tmp_path / "out")
    assert layer == 1
    torch.testing.assert_close(vector_D, -2 * v_D)
    record = read_checked_json(tmp_path / "out" / RECORD, "record")
    assert Intervention.from_dict(record["intervention"]) == spec
    assert record["autoencoder"] is None
    ablation = dataclasses.replace(add, kind="project_out", vectors=Vectors({"u": v_D}))
    by_norm = dataclasses.replace(add, unit="norm")
    later = dataclasses.replace(add, site="blocks.2.hook_resid_post")
    for other, message in (
        (Intervention(edits=(ablation,)), "edit is project_out"),
        (Intervention(edits=(by_norm,)), "in the unit norm there is no one vector"),
        (Intervention(edits=(add, later)), "one vector is of one site"),
        (Intervention(edits=(add,), positions="generated"), "positions limits where"),
    ):
        with pytest.raises(InputError, match=message):
            export_intervention(tiny_model, None, other, tmp_path / "other", "hotwire")
    assert not (tmp_path / "other").exists()


def test_a_model_of_transformers_needs_no_tokenizer(
    tiny_model: LanguageModel, sae: SparseAutoencoder, tmp_path: Path
) -> None:
    """Nor TransformerLens' bridge, which would need one."""
    plain = LanguageModel.from_transformers(tiny_model.network.model)
    for format in FILE_FORMATS:
        export_intervention(plain, sae, two_features(), tmp_path / format, format)
        torch.testing.assert_close(read_back(format, tmp_path / format)[1], by_definition(sae))


@pytest.mark.parametrize("format", FILE_FORMATS)
def test_the_block_gives_what_a_steered_one_gives(
    format: str, tiny_model: LanguageModel, sae: SparseAutoencoder, tmp_path: Path
) -> None:
    """The numbering of blocks, by a hook on transformers' own list of them."""
    export_intervention(tiny_model, sae, two_features(), tmp_path / "out", format)
    layer, vector_D = read_back(format, tmp_path / "out")
    require_steered(tiny_model, sae, f"layers.{layer}", vector_D)


def test_lm_eval_finds_the_block_in_other_architectures(
    other_model: LanguageModel, sae: SparseAutoencoder, tmp_path: Path
) -> None:
    """It looks for the name below `base_model` of the transformers model."""
    export_intervention(other_model, sae, two_features(), tmp_path / "out", "lm-eval")
    ((name, entry),) = torch.load(tmp_path / "out" / "steering.pt", weights_only=True).items()
    require_steered(other_model, sae, name, entry["steering_vector"])


def require_steered(
    model: LanguageModel, sae: SparseAutoencoder, name: str, vector_D: torch.Tensor
) -> None:
    """A plain model to whose module the vector is added must have the steered model's logits."""
    tokens = torch.randint(3, 259, (2, 9))
    models: Any = AutoModelForCausalLM  # transformers leaves its types open
    plain = models.from_pretrained(model.source, attn_implementation="eager").eval()

    def add(module: object, given: object, output: Any) -> Any:
        return output + vector_D if torch.is_tensor(output) else (output[0] + vector_D, *output[1:])

    plain.base_model.get_submodule(name).register_forward_hook(add)
    with torch.no_grad():
        found = plain(tokens).logits
    with steer(model, sae, two_features()):
        expected = model.logits(tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (model.logits(tokens) - expected).abs().max() > 0.1


@pytest.mark.parametrize("format", STEERING_FORMATS.names())
def test_what_a_vector_cannot_hold_is_refused(
    format: str, tiny_model: LanguageModel, sae: SparseAutoencoder, tmp_path: Path
) -> None:
    def refused(spec: Intervention) -> str:
        with pytest.raises(InputError) as caught:
            export_intervention(tiny_model, sae, spec, tmp_path / "out", format)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    for tier in ("per_input", "per_token"):
        said = refused(two_features(tier=tier))
        assert f"tier is {tier}, which steers some tokens only" in said
    assert "site is blocks.1.hook_mlp_out" in refused(two_features("blocks.1.hook_mlp_out"))
    assert "before the first block" in refused(two_features("blocks.0.hook_resid_pre"))
    assert "no site 'blocks.9.hook_resid_post'" in refused(two_features("blocks.9.hook_resid_post"))


def test_a_push_that_depends_on_the_row_is_refused(
    tiny_model: LanguageModel, tmp_path: Path
) -> None:
    config = TopKConfig(d_model=32, n_latents=70, k=9, normalize_activations="layer_norm")
    with pytest.raises(InputError, match=r"normalizes each token's activation \(layer_norm\)"):
        export_intervention(
            tiny_model, SparseAutoencoder(config), two_features(), tmp_path / "out", "hotwire"
        )


def test_llama_cpp_cannot_steer_the_first_block(
    tiny_model: LanguageModel, sae: SparseAutoencoder, tmp_path: Path
) -> None:
    first = two_features("blocks.0.hook_resid_post")
    with pytest.raises(
        InputError, match=r"the first block, where llama\.cpp has no control vector"
    ):
        export_intervention(tiny_model, sae, first, tmp_path / "out", "gguf")
    export_intervention(tiny_model, sae, first, tmp_path / "out", "easysteer")
    assert read_back("easysteer", tmp_path / "out")[0] == 0


def test_only_an_export_of_steering_is_replaced(
    tiny_model: LanguageModel, sae: SparseAutoencoder, tmp_path: Path
) -> None:
    out, spec = tmp_path / "out", two_features()
    for _ in range(2):  # a repeated export is known
        export_intervention(tiny_model, sae, spec, out, "lm-eval")
    with pytest.raises(InputError, match="exists with other content; give another --out"):
        export_intervention(tiny_model, sae, spec, out, "gguf")
    for format in ("transformers", "gguf"):
        export_intervention(tiny_model, sae, spec, out, format, force=True)
    assert {item.name for item in out.iterdir()} == {"steering.gguf", RECORD, "SHA256SUMS"}
    (out / "thesis.tex").touch()
    model_folder = tmp_path / "model"
    model_folder.mkdir()
    (model_folder / "model.safetensors").touch()
    for folder in (out, model_folder):
        with pytest.raises(InputError, match="holds something else than an export"):
            export_intervention(tiny_model, sae, spec, folder, "transformers", force=True)


def test_block_outputs_are_numbered_as_sites_are(tiny_model: LanguageModel) -> None:
    """resid_pre of a block is resid_post of the one before, which the record counts on."""
    tokens = torch.randint(3, 259, (1, 5))
    found = read_sites(
        tiny_model, [tiny_model.site(SITE), tiny_model.site("blocks.2.hook_resid_pre")], tokens
    )
    assert torch.equal(found[SITE], found["blocks.2.hook_resid_pre"])
