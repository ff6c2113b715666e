"""Files that are read: only regular ones, for others may never end."""

import os
from pathlib import Path

import pytest
import torch

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.common.files import read_json
from sparsteer.sae.common.tensor_files import load_tensors, save_tensors
from sparsteer.sae.common.yaml_files import read_yaml
from sparsteer.sae.config import TopKConfig


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "below"])
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to("file")
    else:
        path.write_text("")
        path = path / "inside"
    for read in (
        lambda: read_json(path, "file"),
        lambda: read_yaml(path, "file", remedy="mend it"),
        lambda: load_tensors(path, "copy it again"),
    ):
        with pytest.raises(InputError, match=r"file(/inside)? cannot be read \("):
            read()


def test_weights_of_whole_numbers_are_refused(tmp_path: Path) -> None:
    sae = SparseAutoencoder(TopKConfig(4, 8, 2))
    sae.save(tmp_path)
    (tmp_path / "config.json").write_text(
        '{"format": "sparsteer-sae", "version": 1, "activation": "topk", "d_model": 4, '
        '"n_latents": 8, "k": 2, "origin": null}'
    )
    assert SparseAutoencoder.load(tmp_path).config == TopKConfig(4, 8, 2)
    tensors = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    whole = torch.ones(8, 4, dtype=torch.int64)
    save_tensors(tmp_path / "sae.safetensors", {**tensors, "W_dec": whole})
    with pytest.raises(InputError, match=r"W_dec holds torch\.int64 where numbers"):
        SparseAutoencoder.load(tmp_path)
