"""Dictionaries that come with the package: found by name, before a folder of that name."""

from pathlib import Path

import pytest
import torch

from sparsteer.sae import InputError, SparseAutoencoder, TopKConfig
from sparsteer.sae.common import shipped
from sparsteer.sae.fingerprint import sae_fingerprint
from sparsteer.sae.interop.export import export
from sparsteer.sae.interop.sources import resolved

from ..random_sae import random_sae

NAME = shipped.DEFAULT


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that holds a tiny dictionary of that name."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "dictionaries")
    sae = random_sae(TopKConfig(13, 57, 5))
    export(sae, tmp_path / "dictionaries" / NAME / "sae", "sparsteer", dtype="int8")
    return tmp_path / "dictionaries" / NAME


def test_it_is_loaded_by_name(here: Path) -> None:
    by_name, by_path = SparseAutoencoder.load(NAME), SparseAutoencoder.load(here)
    assert sae_fingerprint(by_name) == sae_fingerprint(by_path)
    assert resolved(NAME) == NAME


def test_the_name_wins_over_a_folder(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = SparseAutoencoder(TopKConfig(3, 5, 2))
    other.save(Path(NAME))
    assert SparseAutoencoder.load(NAME).config.d_model == 13
    for own in (f"./{NAME}", Path(NAME), str(Path(NAME).absolute())):
        assert torch.equal(SparseAutoencoder.load(own).W_enc, other.W_enc)


def test_an_installation_without_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(InputError, match=r"this installation does not hold it .*make_dictionary"):
        SparseAutoencoder.load(NAME)
    assert not shipped.is_here(NAME)


def test_a_name_that_is_nearly_right_is_answered(here: Path) -> None:
    with pytest.raises(InputError, match=f"did you mean {NAME}\\?"):
        SparseAutoencoder.load("smollm2-135m-defualt")
    with pytest.raises(InputError, match=rf"one that comes with sparsteer \({NAME}\)"):
        SparseAutoencoder.load("runs/xyz")
