"""A file layout of another package, as docs/extending.md shows it: exported to and read back."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsteer.sae import InputError, SparseAutoencoder, TopAFAConfig, TopKConfig
from sparsteer.sae.interop.layouts import LAYOUTS, writable_layout

from .toy_package import install


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which the package with the layout is installed."""
    (tmp_path / "site").mkdir()
    return install(tmp_path / "site")


def ran(env: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    given = [sys.executable, *map(str, words)]
    return subprocess.run(given, capture_output=True, text=True, env=env)


@pytest.mark.slow
def test_an_autoencoder_goes_there_and_back(installed: dict[str, str], tmp_path: Path) -> None:
    sae = SparseAutoencoder(TopKConfig(13, 57, 5), seed=4)
    sae.save(tmp_path / "mine")
    export = ("-m", "sparsteer", "export", tmp_path / "mine", "--out", tmp_path / "out")
    for _ in range(2):  # a repeated export is known
        done = ran(installed, *export, "--format", "toy")
        assert done.returncode == 0, done.stderr
    assert [item.name for item in (tmp_path / "out").iterdir()] == ["toy.safetensors"]
    done = ran(
        installed,
        "-m",
        "sparsteer",
        *("export", tmp_path / "out", "--out", tmp_path / "back", "--format", "sparsteer"),
    )
    assert done.returncode == 0, done.stderr
    back = SparseAutoencoder.load(tmp_path / "back")
    assert back.config == sae.config
    x = torch.randn(9, 13)
    assert torch.equal(back(x), sae(x))


@pytest.mark.slow
def test_a_layout_may_be_refused(installed: dict[str, str], tmp_path: Path) -> None:
    SparseAutoencoder(TopAFAConfig(13, 57)).save(tmp_path / "mine")
    words = ("-m", "sparsteer", "export", tmp_path / "mine", "--out", tmp_path / "out", "--format")
    done = ran(installed, *words, "toy")
    assert done.returncode == 2 and "toy holds topk autoencoders only" in done.stderr
    done = ran(installed, *words, "tpy")
    assert done.returncode == 2 and "perhaps you meant toy" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_layout_may_only_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Reader:
        def recognizes(self, path: Path) -> bool:
            return path.suffix == ".one"

        def read(self, path: Path) -> SparseAutoencoder:
            return SparseAutoencoder(TopKConfig(3, 5, 1))

    monkeypatch.setattr(LAYOUTS, "_values", dict(LAYOUTS._values))  # pyright: ignore[reportPrivateUsage]
    LAYOUTS.register("one", Reader())
    (tmp_path / "a.one").write_bytes(b"one")
    assert SparseAutoencoder.load(tmp_path / "a.one").config == TopKConfig(3, 5, 1)
    with pytest.raises(InputError, match="layout is one, which is read but not written") as caught:
        writable_layout("one")
    assert caught.value.field == "layout"
