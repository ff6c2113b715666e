"""Token ids that the tokenizer knows and the model has no embedding for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.auto.tokenization_auto import AutoTokenizer

from sparsteer.cli.main import main
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.generation import Generation
from sparsteer.steering.texts import prompt_tokens

N_ROWS = 259


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model whose tokenizer a test may extend."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def extend(folder: Path, words: list[str], **special: str) -> None:
    """Add words and special tokens to the tokenizer, and nothing to the model."""
    auto: Any = AutoTokenizer  # transformers leaves its types open
    tokenizer = auto.from_pretrained(folder)
    tokenizer.add_tokens(words)
    tokenizer.add_special_tokens(special)
    assert len(tokenizer) > N_ROWS
    tokenizer.save_pretrained(folder)


def test_padding_beyond_the_embedding_is_replaced(folder: Path, tiny_model: LanguageModel) -> None:
    extend(folder, [], pad_token="[PAD]")
    model = LanguageModel.load(str(folder))
    assert model.n_embedded == N_ROWS
    assert model.pad_id == model.eos_id == 2
    assert model.special_ids == (2, 1)
    texts = [prompt_tokens(model, text) for text in ("abc de", "f", "gh ijk lmn")]
    sampling = Sampling(max_new_tokens=6)
    made = [Generation(m, texts, sampling) for m in (model, tiny_model)]
    for generation in made:
        while not generation.done:
            generation.step()
    ours, theirs = (generation.results() for generation in made)
    assert [text.tokens for text in ours] == [text.tokens for text in theirs]


def test_without_special_tokens_an_ordinary_one_pads_and_is_not_left_out(folder: Path) -> None:
    extend(folder, ["[PAD]"])
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    settings = {name: value for name, value in settings.items() if not name.endswith("_token")}
    config.write_text(json.dumps({**settings, "pad_token": "[PAD]"}))
    model = LanguageModel.load(str(folder))
    assert (model.bos_id, model.eos_id, model.pad_id, model.special_ids) == (None, None, 0, ())
    mask = torch.tensor([[True, True, True, False]])
    excluded: Any = model.excluded_tokens(torch.tensor([[5, 0, 7, 0]]), mask)
    assert excluded.tolist() == [[True, False, False, True]]


def test_a_text_with_such_a_token_is_refused_wherever_it_is_read(folder: Path) -> None:
    extend(folder, ["zebra", "gnu\x1b"])
    model = LanguageModel.load(str(folder))
    assert model.tokenize("a zbr") and LanguageModel.load(str(folder)).pad_id == 0
    for text, token in (("a zebra.", "'zebra' with id 259"), ("gnu\x1b", r"'gnu\x1b' with id 260")):
        with pytest.raises(InputError) as caught:
            model.tokenize(text)
        message = str(caught.value)
        assert f"has the token {token}" in message
        assert f"embedding of {folder} has {N_ROWS} rows; resize the model" in message
        with pytest.raises(InputError):
            prompt_tokens(model, text)
    tokenizer: Any = model.tokenizer
    tokenizer.chat_template = "zebra{{ messages[0].content }}"
    with pytest.raises(InputError, match="has the token 'zebra'"):
        prompt_tokens(model, "ab", chat=True)
    with pytest.raises(InputError, match="'zebra' with id 259"):
        model.logits(torch.tensor([[5, 259, 6]]))
    with pytest.raises(InputError, match="a prompt has the token 'zebra'"):
        Generation(model, [[5, 6], [5, 259]], Sampling())


@pytest.mark.parametrize("special", ["bos_token", "eos_token"])
def test_ends_of_a_text_beyond_the_embedding_are_refused_at_once(
    folder: Path, special: str
) -> None:
    extend(folder, [], **{special: "[END]"})
    with pytest.raises(InputError, match=r"the tokenizer of .* has the token '\[END\]'"):
        LanguageModel.load(str(folder))


def test_the_command_ends_with_one_sentence_or_pads(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSTEER_THREADS", "1")
    extend(folder, ["zebra"], pad_token="[PAD]")
    text = tmp_path / "text.jsonl"
    words = ["cache", "--model", str(folder), "--dataset", str(text), "--context-length", "16"]
    text.write_text('{"text": "ab cd ef gh"}\n' * 2)
    assert main([*words, "--tokens", "999", "--out", str(tmp_path / "padded")]) == 0
    text.write_text('{"text": "ab cd ef gh"}\n' * 2 + '{"text": "one zebra"}\n')
    capfd.readouterr()
    assert main([*words, "--tokens", "999", "--out", str(tmp_path / "beyond")]) == 2
    assert "has the token 'zebra' with id 259" in capfd.readouterr().err
