"""What is taken for a model's files, and the name by which a model is found again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.sae.language_model.model_files import weight_files
from sparsteer.sae.language_model.names import lasting_name, named_again


@pytest.fixture
def copied(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "copied"))


def split_into_files(folder: Path) -> None:
    """Store the weights in several files with an index."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")


@pytest.mark.parametrize("split", [False, True])
def test_other_weights_in_the_folder_are_no_part_of_the_model(
    copied: Path, tiny_model: LanguageModel, split: bool
) -> None:
    if split:
        split_into_files(copied)
    whole = weight_files(copied)
    assert (len(whole) > 1) == split
    for stray in ("consolidated", "consolidated-00001-of-00002", "adapter_model"):
        save_file({"x": torch.zeros(2)}, copied / f"{stray}.safetensors")
    assert weight_files(copied) == whole
    assert LanguageModel.load(str(copied)).weights_hash == tiny_model.weights_hash


def test_a_single_file_wins_over_an_index_as_it_does_in_loading(copied: Path) -> None:
    index = {"weight_map": {"x": "other.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_files(copied) == [copied / "model.safetensors"]
    assert LanguageModel.load(str(copied)).n_layers == 3


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": 5}', "{", "[]"])
def test_a_broken_index_is_refused(copied: Path, content: str) -> None:
    (copied / "model.safetensors").rename(copied / "model-00001-of-00001.safetensors")
    (copied / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match="index"):
        LanguageModel.load(str(copied))


def test_weights_under_another_name_are_no_model(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "consolidated.safetensors")
    with pytest.raises(InputError, match="holds no safetensors weights"):
        LanguageModel.load(str(copied))


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_is_refused_with_the_remedy(copied: Path, whole: bool) -> None:
    (copied / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if not whole:
        (copied / "config.json").unlink()
        (copied / "model.safetensors").rename(copied / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"LoRA adapter.*merge_and_unload.*save_pretrained"):
        LanguageModel.load(str(copied))


def test_what_is_here_is_named_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "news").mkdir()
    (tmp_path / "part-1.jsonl").touch()
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert lasting_name("b") == lasting_name("./b") == lasting_name("~/a/b") == f"{tmp_path}/a/b"
    assert lasting_name("../part-*.jsonl") == f"{tmp_path}/part-*.jsonl"
    for elsewhere in ("a/b", "someone/model@main", "part-*.jsonl", "smollm2-135m"):
        assert lasting_name(elsewhere) == elsewhere
    monkeypatch.chdir(tmp_path)
    assert lasting_name("news") == "news"  # what can be fetched wins over a folder of that name


def test_a_recorded_path_that_is_gone_is_asked_for(tmp_path: Path) -> None:
    recorded = str(tmp_path / "model")
    with pytest.raises(InputError, match=f"of runs/x is not at {recorded} .*give --model"):
        named_again(recorded, None, "runs/x")
    assert named_again(recorded, "other", "runs/x") == "other"
    Path(recorded).mkdir()
    assert named_again(recorded, None, "runs/x") == recorded
    assert named_again("someone/model", None, "runs/x") == "someone/model"
