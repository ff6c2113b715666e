"""The verb export on a run of the tiny model."""

from pathlib import Path

from .conftest import Sparsteer


def test_a_run_is_exported_once(sparsteer: Sparsteer, run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    done = sparsteer("export", run_folder, "--out", out, "--json")
    assert done.status == 0
    assert done.values["activation"] == "topk"
    assert {item.name for item in out.iterdir()} == {"cfg.json", "sae_weights.safetensors"}
    again = sparsteer("export", run_folder, "--out", out)
    assert again.status == 2 and "not empty" in again.err
    other = sparsteer("export", run_folder, "--out", tmp_path / "x", "--format", "torch")
    assert other.status == 2 and "saelens" in other.err
    assert not (tmp_path / "x").exists()
