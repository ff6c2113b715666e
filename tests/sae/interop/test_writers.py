"""What is exported for sparsify and dictionary_learning reads back the same, or is refused."""

import filecmp
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - its path type is an open generic

from sparsteer.sae import (
    BatchTopKConfig,
    InputError,
    JumpReLUConfig,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.config import GatedConfig, GroupMaxConfig, ReLUConfig, SAEConfig
from sparsteer.sae.interop.export import export

from ..random_sae import random_sae

D, F, SCALE = 13, 57, 3.7
TRANSCODER: dict[str, Any] = {"transcoder": True}
RAW: dict[str, Any] = {"apply_b_dec_to_input": False}


def random_autoencoder(config: SAEConfig) -> SparseAutoencoder:
    """As `random_sae`; in raw units where it is not one that is trained here."""
    torch.default_generator.manual_seed(0)
    sae = random_sae(config, SCALE)
    with torch.no_grad():
        if config.transcoder:
            sae.output_center.normal_()
            sae.output_scale.fill_(0.3)
        if config.skip:
            sae.W_skip.normal_()
        if isinstance(config, GatedConfig):
            sae.input_scale.fill_(1)
            sae.decoder_scale.fill_(1)
            sae.input_center.zero_()
            sae.get_buffer("magnitude_bias").normal_()
            sae.get_buffer("magnitude_exponent").normal_(std=0.3)
        if not config.apply_b_dec_to_input:
            sae.input_scale.fill_(1)
            sae.input_center.zero_()
    return sae


HELD: list[tuple[str, SAEConfig]] = [
    ("sparsify", TopKConfig(D, F, 5)),
    ("sparsify", TopKConfig(D, F, 5, prefixes=(8, 20))),
    ("sparsify", TopKConfig(D, F, 5, **RAW)),
    ("sparsify", TopKConfig(D, F, 5, **TRANSCODER)),
    ("sparsify", GroupMaxConfig(D, F, 3)),
    ("sparsify", TopKConfig(D, F, 5, **TRANSCODER, skip=True)),
    ("dictionary_learning", TopKConfig(D, F, 5)),
    ("dictionary_learning", TopKConfig(D, F, 5, **RAW)),
    ("dictionary_learning", TopKConfig(D, F, 5, **TRANSCODER)),
    ("dictionary_learning", BatchTopKConfig(D, F, 5)),
    ("dictionary_learning", BatchTopKConfig(D, F, 5, prefixes=(8, 20))),
    ("dictionary_learning", JumpReLUConfig(D, F)),
    ("dictionary_learning", JumpReLUConfig(D, F, **TRANSCODER)),
    ("dictionary_learning", ReLUConfig(D, F, **RAW)),
    ("dictionary_learning", ReLUConfig(D, F)),
    ("dictionary_learning", GatedConfig(D, F)),
    ("dictionary_learning", GatedConfig(D, F, **RAW)),
    ("dictionary_learning", GatedConfig(D, F, **TRANSCODER)),
]


@pytest.mark.parametrize(("layout", "config"), HELD, ids=str)
@torch.no_grad()
def test_it_reads_back_the_same(layout: str, config: SAEConfig, tmp_path: Path) -> None:
    sae = random_autoencoder(config)
    export(sae, tmp_path / "out", layout)
    back = SparseAutoencoder.load(tmp_path / "out")
    assert back.input_scale == 1 and not back.input_center.any()
    assert back.config.transcoder == config.transcoder
    x = torch.randn(31, D)
    torch.testing.assert_close(
        back.encode(x).dense(F), sae.encode(x).dense(F) / sae.decoder_scale, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(back(x), sae(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["sparsify", "dictionary_learning"])
def test_the_same_bytes_each_time(layout: str, tmp_path: Path) -> None:
    for out in (tmp_path / "one", tmp_path / "other"):
        export(random_autoencoder(TopKConfig(D, F, 5)), out, layout)
    names = [file.name for file in (tmp_path / "one").iterdir()]
    same, _, _ = filecmp.cmpfiles(tmp_path / "one", tmp_path / "other", names, shallow=False)
    assert len(names) > 2 and sorted(same) == sorted(names)


def test_weights_may_be_rounded_but_not_the_threshold(tmp_path: Path) -> None:
    sae = random_sae(BatchTopKConfig(D, F, 5), SCALE)
    export(sae, tmp_path / "out", "dictionary_learning", dtype="bfloat16")
    held = torch.load(tmp_path / "out" / "ae.pt", weights_only=True)
    assert held["encoder.weight"].dtype == torch.bfloat16
    assert held["threshold"].dtype == torch.float32 and held["k"].dtype == torch.int32
    beside = load_file(tmp_path / "out" / "ae.safetensors")
    assert held.keys() == beside.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in beside.items())


def test_the_files_that_a_library_looks_for(tmp_path: Path) -> None:
    export(random_sae(TopKConfig(D, F, 5), SCALE), tmp_path / "s", "sparsify")
    config = json.loads((tmp_path / "s" / "cfg.json").read_text(encoding="utf-8"))
    assert config == {
        "activation": "topk",
        "expansion_factor": 4,
        "normalize_decoder": True,
        "num_latents": F,
        "k": 5,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D,
    }
    export(
        random_sae(BatchTopKConfig(D, F, 5, prefixes=(8, 20)), SCALE),
        tmp_path / "d",
        "dictionary_learning",
    )
    trainer = json.loads((tmp_path / "d" / "config.json").read_text(encoding="utf-8"))["trainer"]
    assert trainer["dict_class"] == "MatryoshkaBatchTopKSAE"
    assert (trainer["k"], trainer["group_sizes"]) == (5, [8, 12, 37])
    assert (trainer["layer"], trainer["submodule_name"]) == (1, "resid_post_layer_1")
    back = SparseAutoencoder.load(tmp_path / "d")
    assert back.config.prefixes == (8, 20)
    assert back.origin is not None and back.origin.site == "blocks.1.hook_resid_post"


REFUSED: list[tuple[str, SAEConfig, str]] = [
    (
        "sparsify",
        TopAFAConfig(D, F),
        "activation is top_afa, but sparsify has top-k and group-max alone",
    ),
    ("sparsify", JumpReLUConfig(D, F), "activation is jumprelu"),
    ("sparsify", ReLUConfig(D, F), "activation is relu"),
    (
        "sparsify",
        TopKConfig(D, F, 5, normalize_activations="layer_norm"),
        "normalize_activations is layer_norm, which sparsify does not do",
    ),
    ("dictionary_learning", TopAFAConfig(D, F), "activation is top_afa, for which"),
    ("dictionary_learning", GroupMaxConfig(D, F, 3), "activation is group_max, for which"),
    (
        "dictionary_learning",
        ReLUConfig(D, F, normalize_activations="constant_norm_rescale"),
        "normalize_activations is constant_norm_rescale",
    ),
    ("dictionary_learning", TopKConfig(D, F, 5, **TRANSCODER, skip=True), "skip connection"),
    (
        "openai",
        TopKConfig(D, F, 5),
        "layout is openai, which is read but not written; choose one of circuit-tracer, ",
    ),
]


@pytest.mark.parametrize(("layout", "config", "message"), REFUSED, ids=str)
def test_what_a_library_cannot_hold_is_refused(
    layout: str, config: SAEConfig, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        export(random_autoencoder(config), tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_dictionary_learning_is_named_by_its_file(tmp_path: Path) -> None:
    sae = random_sae(TopKConfig(D, F, 5), SCALE)
    export(sae, tmp_path / "trainer_0", "dictionary_learning")
    other = random_sae(TopKConfig(D, F, 5), 2 * SCALE)
    export(other, tmp_path / "other", "dictionary_learning")
    (tmp_path / "trainer_0" / "checkpoints").mkdir()
    checkpoint = tmp_path / "trainer_0" / "checkpoints" / "ae_1000.pt"
    (tmp_path / "other" / "ae.pt").rename(checkpoint)
    x = torch.randn(5, D)
    torch.testing.assert_close(SparseAutoencoder.load(checkpoint)(x), other(x))
    torch.testing.assert_close(SparseAutoencoder.load(tmp_path / "trainer_0")(x), sae(x))
    torch.testing.assert_close(SparseAutoencoder.load(tmp_path / "trainer_0" / "ae.pt")(x), sae(x))


def test_the_site_of_a_sparsify_folder_is_that_of_its_run(tmp_path: Path) -> None:
    run: dict[str, Any] = {"model": "some/model", "dataset": "some/text", "ctx_len": 64}
    (tmp_path / "config.json").write_text(json.dumps(run), encoding="utf-8")
    for name, site in (
        ("layers.3", "blocks.3.hook_resid_post"),
        ("h.12.mlp", "blocks.12.hook_mlp_out"),
    ):
        export(random_sae(TopKConfig(D, F, 5), SCALE), tmp_path / name, "sparsify")
        origin = SparseAutoencoder.load(tmp_path / name).origin
        assert origin is not None
        assert (origin.model, origin.site, origin.context_length) == ("some/model", site, 64)
    export(random_sae(TopKConfig(D, F, 5), SCALE), tmp_path / "attention", "sparsify")
    assert SparseAutoencoder.load(tmp_path / "attention").origin is None
