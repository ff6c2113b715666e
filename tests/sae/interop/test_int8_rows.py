"""Autoencoders in int8: what is read is what was defined, rows keep norms, faults are told."""

import json
from pathlib import Path

import pytest
import torch

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import BatchTopKConfig, InputError, JumpReLUConfig, SparseAutoencoder, TopKConfig
from sparsteer.sae.common.checksums import recorded_files, write_checked_json
from sparsteer.sae.common.files import read_json
from sparsteer.sae.common.tensor_files import load_tensors, save_tensors
from sparsteer.sae.config import SAEConfig
from sparsteer.sae.fingerprint import sae_fingerprint
from sparsteer.sae.interop.export import export
from sparsteer.sae.interop.int8_rows import round_rows, rows_from

from ..random_sae import ORIGIN, random_sae

D, F = 13, 57
CONFIGS = [
    TopKConfig(D, F, 5),
    BatchTopKConfig(D, F, 5),
    JumpReLUConfig(D, F),
    TopKConfig(D, F, 5, transcoder=True, skip=True),
]


def test_rows_keep_their_norms_and_every_element_within_half_a_step() -> None:
    rows_FD = torch.randn(31, 17) * torch.logspace(-8, 8, 31)[:, None]
    rows_FD[4] = 0
    rounded_FD, scale_F = round_rows(rows_FD)
    read_FD = rows_from(rounded_FD, scale_F)
    assert rounded_FD.dtype == torch.int8 and scale_F.dtype == read_FD.dtype == torch.float32
    torch.testing.assert_close(row_norms(read_FD), row_norms(rows_FD), rtol=1e-6, atol=0)
    step_F1 = rows_FD.abs().amax(1, keepdim=True) / 127
    assert ((read_FD - rows_FD).abs() <= 0.5 * step_F1 + 0.02 * rows_FD.abs()).all()
    assert not read_FD[4].any()
    again_FD, _ = round_rows(read_FD)
    assert torch.equal(again_FD, rounded_FD)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_what_is_read_is_what_was_rounded(config: SAEConfig, tmp_path: Path) -> None:
    sae = random_sae(config)
    export(sae, tmp_path / "whole", "sparsteer")
    export(sae, tmp_path / "int8", "sparsteer", dtype="int8")
    whole = SparseAutoencoder.load(tmp_path / "whole")
    read = SparseAutoencoder.load(tmp_path / "int8")
    assert (read.config, read.origin) == (whole.config, ORIGIN)
    for name, tensor in whole.tensors().items():
        found = read.tensors()[name]
        assert found.dtype == torch.float32
        if name in ("W_enc", "W_dec"):
            tensor = rows_from(*round_rows(tensor))
        assert torch.equal(found, tensor), name
    torch.testing.assert_close(read.decoder_norms(), torch.ones(F))
    assert sae_fingerprint(read) != sae_fingerprint(whole)
    read.save(tmp_path / "saved")
    assert sae_fingerprint(SparseAutoencoder.load(tmp_path / "saved")) == sae_fingerprint(read)


def test_the_matrices_take_a_byte_an_element(tmp_path: Path) -> None:
    sae = random_sae(TopKConfig(64, 500, 5))
    export(sae, tmp_path / "int8", "sparsteer", dtype="int8")
    size = (tmp_path / "int8" / "sae.safetensors").stat().st_size
    assert 2 * 64 * 500 < size < 2 * 64 * 500 + 12 * 500 + 3000
    assert read_json(tmp_path / "int8" / "config.json", "")["version"] == 3


def test_another_layout_has_no_int8(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dtype is int8, which saelens does not have; choose"):
        export(random_sae(TopKConfig(D, F, 5)), tmp_path / "out", "saelens", dtype="int8")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", ["W_dec_scale", "W_enc", "dtype", "shape", "weights"])
def test_a_folder_that_contradicts_itself_is_refused(fault: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(random_sae(TopKConfig(D, F, 5)), out, "sparsteer", dtype="int8")
    tensors = load_tensors(out / "sae.safetensors", "")
    values = json.loads((out / "config.json").read_text())
    del values["sha256"]
    if fault in tensors:
        del tensors[fault]
    if fault == "dtype":
        tensors["W_dec"] = tensors["W_dec"].float()
    if fault == "shape":
        tensors["W_enc_scale"] = tensors["W_enc_scale"][1:]
    if fault == "weights":
        values["weights"] = "int4"
    save_tensors(out / "sae.safetensors", tensors)
    values["files"] = recorded_files(out, ["sae.safetensors"])
    write_checked_json(out / "config.json", values)
    said = "stored as 'int4'" if fault == "weights" else "is not there in int8 with a float32 scale"
    with pytest.raises(InputError, match=said):
        SparseAutoencoder.load(out)
