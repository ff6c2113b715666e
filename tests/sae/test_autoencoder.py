"""The autoencoder: algebra in raw units, save then load, and broken files."""

import dataclasses
import doctest
import hashlib
import json
import os
import random
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sparsteer.kernels import reference
from sparsteer.sae import (
    BatchTopKConfig,
    InputError,
    JumpReLUConfig,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.activations.jumprelu import set_thresholds
from sparsteer.sae.autoencoder import CONFIG_FILE, WEIGHTS_FILE
from sparsteer.sae.common.checksums import write_checked_json
from sparsteer.sae.common.tensor_files import load_tensors, save_tensors
from sparsteer.sae.config import SAEConfig

from .random_sae import ORIGIN, random_sae

CONFIGS = [
    TopKConfig(13, 57, 5),
    TopAFAConfig(13, 57, target_scale=0.8),
    BatchTopKConfig(13, 57, 5, prefixes=(8, 20)),
    JumpReLUConfig(13, 57),
]
TRANSCODERS = [
    TopKConfig(13, 57, 5, transcoder=True),
    BatchTopKConfig(13, 57, 5, prefixes=(8, 20), transcoder=True),
    JumpReLUConfig(13, 57, transcoder=True),
]


@pytest.fixture(params=CONFIGS, ids=lambda config: config.activation)
def sae(request: pytest.FixtureRequest) -> SparseAutoencoder:
    return random_sae(request.param)


def test_equals_the_dense_formula_in_raw_units(sae: SparseAutoencoder) -> None:
    x = 4 * torch.randn(21, 13)
    scaled = x * 0.37 - sae.input_center
    pre = reference.pre_activations(scaled, sae.b_dec, sae.W_enc, sae.b_enc)
    if isinstance(sae.config, TopKConfig):
        acts = reference.topk_select(pre, 5).dense(57)
    elif isinstance(sae.config, TopAFAConfig):
        target = 0.8 * (scaled - sae.b_dec).square().sum(-1).sqrt()
        acts = reference.top_afa_select(pre, sae.decoder_norms(), target).dense(57)
    elif isinstance(sae.config, BatchTopKConfig):
        acts = reference.jumprelu(pre, torch.full((57,), 0.6))
    else:
        acts = reference.jumprelu(pre, sae.thresholds())
    torch.testing.assert_close(sae.encode(x).dense(57), acts)
    torch.testing.assert_close(sae(x), (acts @ sae.W_dec + sae.b_dec + sae.input_center) / 0.37)


def test_training_keeps_the_largest_of_the_batch_and_gives_jumprelu_steps() -> None:
    x = torch.randn(21, 13)
    batch = random_sae(BatchTopKConfig(13, 57, 5))
    pre = reference.pre_activations(x, batch.b_dec, batch.W_enc, batch.b_enc)
    expected = reference.batch_topk_select(pre, 5).dense(57)
    torch.testing.assert_close(batch.encode_train(x).dense(57), expected)
    jump = random_sae(JumpReLUConfig(13, 57))
    codes = jump.encode_train(x)
    assert codes.l0_gate is not None and torch.equal(codes.l0_gate > 0, codes.values > 0)
    torch.testing.assert_close(codes.dense(57), jump.encode_scaled(x).dense(57))
    topk = random_sae(TopKConfig(13, 57, 5))
    assert torch.equal(topk.encode_train(x).dense(57), topk.encode_scaled(x).dense(57))


def test_thresholds_are_what_an_activation_must_exceed(sae: SparseAutoencoder) -> None:
    if isinstance(sae.config, TopKConfig | TopAFAConfig):
        with pytest.raises(ValueError, match=f"{sae.config.activation} has no thresholds"):
            sae.thresholds()
        return
    thresholds = sae.thresholds()
    assert thresholds.shape == (57,) and (thresholds > 0).all()
    x = torch.randn(300, 13)
    pre = reference.pre_activations(sae.scaled(x), sae.b_dec, sae.W_enc, sae.b_enc)
    assert torch.equal(sae.encode(x).dense(57) > 0, pre > thresholds)
    if isinstance(sae.config, JumpReLUConfig):
        wanted = 0.1 + 3 * torch.rand(57)
        set_thresholds(sae, wanted)
        torch.testing.assert_close(sae.thresholds(), wanted)


def test_leading_dimensions_are_kept(sae: SparseAutoencoder) -> None:
    x = torch.randn(2, 3, 4, 13)
    codes = sae.encode(x)
    assert codes.indices.shape[:-1] == codes.values.shape[:-1] == (2, 3, 4)
    assert codes.counts is None or codes.counts.shape == (2, 3, 4)
    assert sae.decode(codes).shape == x.shape
    torch.testing.assert_close(sae(x)[1, 2], sae(x[1, 2]))


def test_permuting_latents_changes_no_reconstruction(sae: SparseAutoencoder) -> None:
    x = torch.randn(9, 13)
    before = sae(x)
    order = torch.randperm(57)
    with torch.no_grad():
        jumps = isinstance(sae.config, JumpReLUConfig)
        own = [sae.get_parameter("threshold_exponent")] if jumps else []
        for tensor in (sae.W_enc, sae.b_enc, sae.W_dec, *own):
            tensor.copy_(tensor[order].clone())
    torch.testing.assert_close(sae(x), before)


def test_starts_with_unit_rows_and_a_tied_encoder() -> None:
    sae = SparseAutoencoder(TopKConfig(13, 57, 5), seed=1)
    torch.testing.assert_close(sae.decoder_norms(), torch.ones(57))
    assert torch.equal(sae.W_enc, sae.W_dec) and sae.W_enc is not sae.W_dec
    assert float(sae.input_scale) == 1 and not sae.input_center.any()
    again, other = (SparseAutoencoder(TopKConfig(13, 57, 5), seed=seed) for seed in (1, 2))
    assert torch.equal(sae.W_dec, again.W_dec) and not torch.equal(sae.W_dec, other.W_dec)


def test_save_then_load_is_the_identity(sae: SparseAutoencoder, tmp_path: Path) -> None:
    sae.save(tmp_path / "sae")
    loaded = SparseAutoencoder.load(tmp_path / "sae")
    assert loaded.config == sae.config and loaded.origin == ORIGIN
    for name, tensor in sae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    x = torch.randn(8, 13)
    assert torch.equal(loaded(x), sae(x))
    assert sorted(path.name for path in (tmp_path / "sae").iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


def test_config_json_is_the_documented_format(tmp_path: Path) -> None:
    random_sae(TopKConfig(13, 57, 5)).save(tmp_path / "sae")
    weights = (tmp_path / "sae" / WEIGHTS_FILE).read_bytes()
    values = json.loads((tmp_path / "sae" / CONFIG_FILE).read_text())
    in_order = json.dumps(
        {name: value for name, value in values.items() if name != "sha256"},
        sort_keys=True,
        separators=(",", ":"),
    )
    assert values.pop("sha256") == hashlib.sha256(in_order.encode()).hexdigest()
    assert values == {
        "format": "sparsteer-sae",
        "version": 2,
        "activation": "topk",
        "d_model": 13,
        "n_latents": 57,
        "k": 5,
        "origin": {
            "model": "some/model",
            "site": "blocks.1.hook_resid_post",
            "weights_hash": "0f" * 32,
        },
        "files": {
            WEIGHTS_FILE: {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
        },
    }


def test_what_an_earlier_version_wrote_is_read(sae: SparseAutoencoder, tmp_path: Path) -> None:
    sae.save(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps({**sae.description(), "version": 1}))
    loaded = SparseAutoencoder.load(tmp_path)
    assert (loaded.config, loaded.origin) == (sae.config, sae.origin)
    assert torch.equal(loaded.W_enc, sae.W_enc)


def test_one_changed_bit_is_found(sae: SparseAutoencoder, tmp_path: Path) -> None:
    sae.save(tmp_path)
    source = random.Random(3)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        path = tmp_path / name
        whole = path.read_bytes()
        for _ in range(40):
            place, bit = source.randrange(len(whole)), 1 << source.randrange(8)
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            with pytest.raises(InputError) as caught:
                SparseAutoencoder.load(tmp_path)
            assert str(path) in str(caught.value), (name, place, bit)
        path.write_bytes(whole)
    assert torch.equal(SparseAutoencoder.load(tmp_path).W_dec, sae.W_dec)


def test_a_checksum_that_is_gone_is_found(sae: SparseAutoencoder, tmp_path: Path) -> None:
    sae.save(tmp_path)
    values = json.loads((tmp_path / CONFIG_FILE).read_text())
    for name in ("sha256", "files", "version"):
        kept = {key: value for key, value in values.items() if key != name}
        (tmp_path / CONFIG_FILE).write_text(json.dumps(kept))
        with pytest.raises(InputError, match="has changed since it was written"):
            SparseAutoencoder.load(tmp_path)


def test_weights_that_may_not_be_read_are_not_called_missing(sae: SparseAutoencoder) -> None:
    with tempfile.TemporaryDirectory() as made:  # pytest's own folders are closed to other users
        folder = Path(made)
        folder.chmod(0o755)
        sae.save(folder / "sae")
        for path in (folder / "sae" / CONFIG_FILE, folder / "sae" / WEIGHTS_FILE):
            path.chmod(0)
            with as_an_ordinary_user(), pytest.raises(InputError) as caught:
                SparseAutoencoder.load(folder)
            assert f"{path} cannot be read (permission denied)" in str(caught.value)
            path.chmod(0o644)


@contextmanager
def as_an_ordinary_user() -> Generator[None]:
    """Without root's right to read everything, where the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_all_files_have_the_permissions_of_new_files(
    sae: SparseAutoencoder, tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        sae.save(tmp_path / "sae")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "sae").iterdir()}
    assert modes == {0o666 & ~umask}


def test_loads_from_the_run_that_holds_it(sae: SparseAutoencoder, tmp_path: Path) -> None:
    sae.save(tmp_path / "run" / "sae")
    assert SparseAutoencoder.load(tmp_path / "run").config == sae.config


def test_saving_again_replaces_and_saving_over_other_files_is_refused(tmp_path: Path) -> None:
    first, second = random_sae(TopKConfig(13, 57, 5)), random_sae(TopAFAConfig(13, 57))
    first.save(tmp_path / "sae")
    second.save(tmp_path / "sae")
    assert SparseAutoencoder.load(tmp_path / "sae").config == second.config
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(InputError, match="thesis holds something else"):
        first.save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_broken_folders_are_named(tmp_path: Path) -> None:
    sae = random_sae(TopKConfig(13, 57, 5))

    def message(path: Path) -> str:
        with pytest.raises(InputError) as caught:
            SparseAutoencoder.load(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "does not exist" in message(tmp_path / "nowhere")
    folder = tmp_path / "sae"
    sae.save(folder)
    config = sae.description() | {"version": 1}

    def rewritten(**changes: object) -> str:
        (folder / CONFIG_FILE).write_text(json.dumps(config | changes))
        return message(folder)

    assert "no key 'kk'" in rewritten(kk=3)
    write_checked_json(folder / CONFIG_FILE, config | {"version": 4})
    assert "format version 4" in message(folder)
    assert "not a sparsteer autoencoder" in rewritten(format="other")
    assert "W_dec has shape [57, 13]" in rewritten(n_latents=58)
    assert "W_dec has shape [57, 13]" in rewritten(n_latents=10**15)
    assert f"{folder / CONFIG_FILE}: k is 0" in rewritten(k=0)
    assert "'x' stands where an object" in rewritten(origin="x")
    (folder / CONFIG_FILE).write_text('{"format": ')
    assert CONFIG_FILE in message(folder)

    sae.save(folder)
    weights = folder / WEIGHTS_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert f"{weights} has {len(whole) // 2:,} bytes" in message(folder)
    weights.unlink()
    assert f"{weights} is missing" in message(folder)
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    assert f"{weights} is missing" in message(folder)
    weights.write_bytes(whole[: len(whole) // 2])
    assert f"{weights} cannot be read" in message(folder)
    weights.write_bytes(whole)
    tensors = load_tensors(weights, "")
    tensors["b_dec"][2] = torch.nan
    save_tensors(weights, tensors)
    assert "b_dec holds NaN" in message(folder)
    del tensors["b_enc"]
    save_tensors(weights, tensors)
    assert "b_dec holds NaN" in message(folder) or "b_enc is missing" in message(folder)


@pytest.mark.parametrize("config", [*CONFIGS, *TRANSCODERS], ids=str)
def test_a_folder_from_before_there_was_a_center_gives_the_same(
    config: SAEConfig, tmp_path: Path
) -> None:
    lacks = "output_center" if config.transcoder else "input_center"
    sae = random_sae(config)
    sae.get_buffer(lacks).zero_()
    sae.save(tmp_path / "sae")
    weights = load_tensors(tmp_path / "sae" / WEIGHTS_FILE, "")
    assert lacks not in weights
    loaded = SparseAutoencoder.load(tmp_path / "sae")
    x = torch.randn(8, 13)
    assert torch.equal(loaded(x), sae(x))
    own_scaled = x * 0.37 - (sae.input_center if config.transcoder else 0)
    torch.testing.assert_close(loaded.encode(x).dense(57), sae.encode_scaled(own_scaled).dense(57))
    if not config.transcoder:  # whose files always had the center of what is read
        assert torch.equal(loaded.scaled(x), x * 0.37)
        expected = sae.decode_scaled(sae.encode(x)) / sae.decoder_scale
        assert torch.equal(loaded(x), expected)


def test_rows_far_from_zero_are_centered_without_loss() -> None:
    """Whole numbers about a million, which float32 has exactly, and so have differences of them."""
    sae = random_sae(TopKConfig(13, 57, 5), scale=1 / 16)
    near = torch.randint(-99, 99, (50, 13)).float()
    sae.input_center.zero_()
    codes, x_hat = sae.encode(near), sae(near)
    center = torch.full((13,), 2.0**20)
    sae.input_center.copy_(center / 16)
    assert torch.equal(sae.encode(near + center).values, codes.values)
    torch.testing.assert_close(sae(near + center) - center, x_hat, rtol=0, atol=0.07)
    # Rows in float64 keep what float32 could not hold.
    wide = near.double() / 1000
    sae.input_center.zero_()
    codes = sae.encode(wide)
    sae.input_center.copy_(center / 16)
    torch.testing.assert_close(sae.encode(wide + center.double()).values, codes.values)


def test_another_width_is_named() -> None:
    sae = random_sae(TopKConfig(13, 57, 5))
    with pytest.raises(ValueError, match="activations of width 13, but x has width 12"):
        sae.encode(torch.randn(2, 12))


def test_what_is_known_of_the_text_is_saved(tmp_path: Path) -> None:
    origin = dataclasses.replace(ORIGIN, dataset="some/text", context_length=77, prepends_bos=False)
    SparseAutoencoder(TopKConfig(13, 57, 5), origin=origin).save(tmp_path / "sae")
    assert SparseAutoencoder.load(tmp_path / "sae").origin == origin
    with pytest.raises(InputError, match="context_length is 0, but must be"):
        dataclasses.replace(ORIGIN, context_length=0)


@pytest.mark.parametrize("config", TRANSCODERS, ids=lambda config: config.activation)
def test_a_transcoder_is_loaded_as_it_was_saved(config: SAEConfig, tmp_path: Path) -> None:
    sae = random_sae(config)
    sae.output_center.normal_()
    sae.output_scale.fill_(2.3)
    sae.origin = dataclasses.replace(ORIGIN, target_site="blocks.1.hook_mlp_out")
    sae.save(tmp_path / "sae")
    loaded = SparseAutoencoder.load(tmp_path / "sae")
    assert (loaded.config, loaded.origin) == (config, sae.origin)
    x = torch.randn(21, 13)
    assert torch.equal(loaded(x), sae(x))
    codes = sae.encode(x)
    expected = (sae.decode_scaled(codes) + sae.output_center) / 2.3
    torch.testing.assert_close(sae.decode(codes), expected)


def test_the_files_of_an_autoencoder_know_nothing_of_transcoders(tmp_path: Path) -> None:
    random_sae(TopKConfig(13, 57, 5)).save(tmp_path / "sae")
    values = json.loads((tmp_path / "sae" / CONFIG_FILE).read_text())
    keys = ["format", "version", "activation", "d_model", "n_latents", "k", "origin", "files"]
    assert list(values) == [*keys, "sha256"]
    assert list(values["origin"]) == ["model", "site", "weights_hash"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"transcoder": True}, "tensor output_scale is missing"),
        ({"transcoder": True, "activation": "top_afa"}, "config.json: activation is top_afa"),
    ],
)
def test_a_configuration_that_calls_an_autoencoder_a_transcoder(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    afa = "activation" in change
    sae = random_sae(TopAFAConfig(13, 57) if afa else TopKConfig(13, 57, 5))
    sae.save(tmp_path / "sae")
    file = tmp_path / "sae" / CONFIG_FILE
    file.write_text(json.dumps(sae.description() | {"version": 1} | change))
    with pytest.raises(InputError, match=sentence):
        SparseAutoencoder.load(tmp_path / "sae")


def test_print_says_what_it_is() -> None:
    nested = SparseAutoencoder(JumpReLUConfig(6, 20, prefixes=(4,), transcoder=True))
    shown = str(nested)
    for word in ("jumprelu", "d_model=6", "n_latents=20", "prefixes=(4,)", "transcoder=True"):
        assert word in shown


def test_the_example_of_its_docstring() -> None:
    names = {"SparseAutoencoder": SparseAutoencoder, "TopKConfig": TopKConfig, "torch": torch}
    (example,) = doctest.DocTestFinder(recurse=False).find(SparseAutoencoder, globs=names)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
