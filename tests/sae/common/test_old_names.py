"""What earlier versions wrote is read under the names of today."""

import json
from pathlib import Path

import torch

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.sae.common.checksums import read_checked_json, write_checked_json
from sparsteer.sae.common.old_names import RENAMED, with_new_names
from sparsteer.sae.common.tensor_files import load_tensors, save_tensors
from sparsteer.sae.fingerprint import sae_fingerprint


def test_every_level_of_a_mapping_gets_its_new_names() -> None:
    old = {"held_out": [{"dead_share": 0.5, "fvu": 1}], "groups": {"share": 2}, "shares": 3}
    new = {"held_out": [{"dead_fraction": 0.5, "fvu": 1}], "groups": {"share": 2}, "shares": 3}
    assert with_new_names(old) == new
    assert with_new_names(new) == new


def test_no_new_name_is_an_old_one() -> None:
    assert not RENAMED.keys() & set(RENAMED.values())


def test_a_checked_file_of_before_is_whole_and_has_new_names(tmp_path: Path) -> None:
    write_checked_json(tmp_path / "old.json", {"left_out": {"bos": 3}})
    assert read_checked_json(tmp_path / "old.json", "file")["excluded"] == {"bos": 3}
    assert "left_out" in json.loads((tmp_path / "old.json").read_text())


def test_tensors_of_before_get_new_names(tmp_path: Path) -> None:
    old = {"sae.input_centre": torch.arange(6.0), "output_centre": torch.ones(2)}
    save_tensors(tmp_path / "old.safetensors", {**old, "share": torch.ones(1)})
    found = load_tensors(tmp_path / "old.safetensors", "")
    assert found.keys() == {"sae.input_center", "output_center", "share"}


def test_a_fingerprint_is_that_of_earlier_versions() -> None:
    """By it an index and picks name their autoencoder; computed before a tensor was renamed."""
    sae = SparseAutoencoder(TopKConfig(6, 20, 3))
    with torch.no_grad():
        for tensor in sae.state_dict().values():
            tensor.copy_(torch.arange(float(tensor.numel())).reshape(tensor.shape) / 7)
    assert sae.tensors().keys() >= {"input_center"}
    assert sae_fingerprint(sae) == (
        "6b24720d9d51c93f5d0bf08e4da773bfdf2fb6ed92dc8c785983181c0a6f7315"
    )
