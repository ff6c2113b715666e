"""The language model: logits, losses, what is left out, hashes, and how it is loaded."""

import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.fetching.fetch import cached_path
from sparsteer.sae.language_model import head as head_module
from sparsteer.sae.language_model.model import LanguageModel

# transformers leaves the types of its entry points open.
auto_model: Any = AutoModelForCausalLM
load_transformers: Any = auto_model.from_pretrained


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Ordinary tokens of the tiny tokenizer: no special ones."""
    return torch.randint(3, 259, shape, generator=torch.Generator().manual_seed(seed))


def padded(lengths: list[int], side: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A batch of rows of these lengths, filled with pad on one side, and its mask."""
    width = max(lengths)
    tokens = random_tokens(len(lengths), width, seed=seed)
    columns, ends = torch.arange(width), torch.tensor(lengths)[:, None]
    mask = columns < ends if side == "right" else columns >= width - ends
    return tokens.where(mask, torch.tensor(0)), mask


def test_facts(tiny_model: LanguageModel, tiny_model_folder: Path) -> None:
    assert tiny_model.name == str(tiny_model_folder)
    assert (tiny_model.n_layers, tiny_model.d_model, tiny_model.max_context) == (3, 32, 512)
    assert (tiny_model.pad_id, tiny_model.bos_id, tiny_model.eos_id) == (0, 1, 2)
    assert tiny_model.device == torch.device("cpu") and tiny_model.dtype == torch.float32
    assert not any(p.requires_grad for p in tiny_model.bridge.parameters())
    assert "3 layers" in repr(tiny_model)


def test_logits_are_those_of_transformers(
    tiny_model: LanguageModel, tiny_model_folder: Path
) -> None:
    original = load_transformers(tiny_model_folder, attn_implementation="eager").eval()
    tokens = random_tokens(3, 37)
    with torch.no_grad():
        expected = original(tokens).logits
    torch.testing.assert_close(tiny_model.logits(tokens), expected, rtol=0, atol=1e-6)
    assert float(expected.std()) > 1  # and they are far from uniform


@pytest.mark.download
def test_logits_of_the_default_model_are_those_of_transformers(
    default_model: LanguageModel, user_cache: None
) -> None:
    original = load_transformers(
        cached_path("smollm2-135m"), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = default_model.tokenize("The capital of France is")
    tokens = torch.tensor([ids, ids[::-1]])
    with torch.no_grad():
        expected = original(tokens).logits
    torch.testing.assert_close(default_model.logits(tokens), expected, rtol=0, atol=1e-6)
    tokenizer: Any = default_model.tokenizer
    assert tokenizer.decode(expected[0, -1].argmax()) == " Paris"


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    side=st.sampled_from(["left", "right"]),
    seed=st.integers(0, 2**31),
)
def test_padded_rows_have_the_logits_of_each_row_alone(
    tiny_model: LanguageModel, lengths: list[int], side: str, seed: int
) -> None:
    tokens, mask = padded(lengths, side, seed)
    logits = tiny_model.logits(tokens, mask)
    for row in range(len(lengths)):
        alone = tiny_model.logits(tokens[row : row + 1, mask[row]])
        torch.testing.assert_close(logits[row, mask[row]], alone[0], rtol=1e-4, atol=1e-4)


def loss_from_all_logits(model: LanguageModel, tokens: Tensor, mask: Tensor) -> Tensor:
    logits = model.logits(tokens, mask)[:, :-1].double()
    losses = cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return losses * (mask[:, 1:] & mask[:, :-1])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("at_once", [1, 259 * 4, 1 << 24])
def test_loss_of_next_tokens(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, side: str, at_once: int
) -> None:
    monkeypatch.setattr(head_module, "LOGITS_AT_ONCE", at_once)
    tokens, mask = padded([9, 2, 1, 6], side)
    losses = tiny_model.next_token_loss(tokens, mask)
    expected = loss_from_all_logits(tiny_model, tokens, mask)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)
    assert int((losses != 0).sum()) == 8 + 1 + 0 + 5
    whole = torch.ones_like(mask)
    expected = loss_from_all_logits(tiny_model, tokens, whole)
    losses = tiny_model.next_token_loss(tokens)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)


def test_loss_of_other_architectures(other_model: LanguageModel) -> None:
    tokens, mask = padded([9, 2, 6], "left")
    expected = loss_from_all_logits(other_model, tokens, mask)
    losses = other_model.next_token_loss(tokens, mask)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)


def test_loss_never_holds_all_logits(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "LOGITS_AT_ONCE", 259 * 5)
    rows: list[int] = []

    def watch(module: object, inputs: object, output: Tensor) -> None:
        rows.append(output.shape[:-1].numel())

    original: Any = tiny_model.bridge.original_model
    handle = original.lm_head.register_forward_hook(watch)
    try:
        tiny_model.next_token_loss(random_tokens(4, 8))
    finally:
        handle.remove()
    assert max(rows) == 5 and sum(rows) == 4 * 7 + 2  # two more to compare the heads


def test_logits_of_few_positions_take_no_copies_of_the_head(tiny_model: LanguageModel) -> None:
    """`linear` makes one for each row, of rows that do not lie side by side."""
    bridge: Any = tiny_model.bridge
    plain = LanguageModel.from_transformers(bridge.original_model, tiny_model.tokenizer)
    tokens = random_tokens(4, 8)
    read: list[Tensor] = []
    linear = bridge.unembed.original_component

    def watch(module: object, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        read.append(inputs[0])

    handle = linear.register_forward_hook(watch)
    try:
        last = [m.network(tokens, logits_to_keep=1).squeeze(1) for m in (tiny_model, plain)]
    finally:
        handle.remove()
    assert [acts.shape for acts in read] == [(4, 1, tiny_model.d_model)] * 2
    assert all(acts.is_contiguous() for acts in read)
    for found in last:
        torch.testing.assert_close(found, tiny_model.logits(tokens)[:, -1])


def test_loss_of_rows_without_a_next_token(tiny_model: LanguageModel) -> None:
    assert tiny_model.next_token_loss(random_tokens(3, 1)).shape == (3, 0)
    tokens, mask = random_tokens(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    assert torch.equal(tiny_model.next_token_loss(tokens, mask), torch.zeros(2, 2))


def test_loss_in_half_precision_is_summed_in_float32(tiny_model_folder: Path) -> None:
    model = LanguageModel.load(str(tiny_model_folder), dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    tokens, mask = padded([9, 5], "right")
    losses = model.next_token_loss(tokens, mask)
    assert losses.dtype == torch.float32
    expected = loss_from_all_logits(model, tokens, mask)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)


def test_float64_is_float64_throughout(tiny_model: LanguageModel, tiny_model_folder: Path) -> None:
    model = LanguageModel.load(str(tiny_model_folder), dtype="float64")
    tokens = random_tokens(2, 9)
    assert model.logits(tokens).dtype == model.next_token_loss(tokens).dtype == torch.float64
    exact, near = model.logits(tokens), tiny_model.logits(tokens).double()
    torch.testing.assert_close(exact, near, rtol=1e-3, atol=1e-3)


@given(
    tokens=st.lists(st.lists(st.integers(0, 6), min_size=7, max_size=7), min_size=1, max_size=4),
    mask=st.data(),
)
def test_what_is_left_out(
    tiny_model: LanguageModel, tokens: list[list[int]], mask: st.DataObject
) -> None:
    shape = st.lists(
        st.lists(st.booleans(), min_size=7, max_size=7), min_size=len(tokens), max_size=len(tokens)
    )
    real = mask.draw(shape)
    expected: list[list[bool]] = []
    for row, flags in zip(tokens, real, strict=True):
        content = [i for i in range(7) if flags[i] and row[i] not in (0, 1, 2)]
        expected.append([i not in content[1:] for i in range(7)])
    found = tiny_model.excluded_tokens(torch.tensor(tokens), torch.tensor(real))
    assert torch.equal(found, torch.tensor(expected))


def test_without_a_mask_nothing_is_padding(tiny_model: LanguageModel) -> None:
    tokens = torch.tensor([[1, 9, 8, 2, 7], [9, 8, 7, 6, 5]])
    expected = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]]).bool()
    assert torch.equal(tiny_model.excluded_tokens(tokens), expected)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_tokens_are_the_text(tiny_model: LanguageModel, text: str) -> None:
    ids = tiny_model.tokenize(text)
    tokenizer: Any = tiny_model.tokenizer
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())


def test_special_tokens_are_read_and_none_added(tiny_model: LanguageModel) -> None:
    assert tiny_model.tokenize("") == []
    assert tiny_model.tokenize("<|eos|>") == [2]
    assert tiny_model.tokenize("a")[0] > 2


def test_a_tokenizer_without_special_tokens(tiny_model_folder: Path, tmp_path: Path) -> None:
    """What the bridge adds for its own use is not taken for the tokenizer's."""
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "plain"))
    config = (folder / "tokenizer_config.json").read_text().splitlines()
    kept = [line for line in config if "bos_token" not in line and "pad_token" not in line]
    (folder / "tokenizer_config.json").write_text("\n".join(kept))
    model = LanguageModel.load(str(folder))
    assert (model.bos_id, model.eos_id, model.pad_id) == (None, 2, 2)
    excluded = model.excluded_tokens(torch.tensor([[1, 9, 2, 0, 7]]))
    assert torch.equal(excluded, torch.tensor([[1, 0, 1, 0, 0]]).bool())


def test_too_long_a_row_is_refused(tiny_model: LanguageModel) -> None:
    assert tiny_model.logits(random_tokens(1, 512)).shape == (1, 512, 259)
    for method in (tiny_model.logits, tiny_model.next_token_loss, tiny_model.site().read):
        with pytest.raises(InputError, match="513 tokens in a row are more than the 512"):
            method(random_tokens(1, 513))


def test_hash_of_weights(
    tiny_model: LanguageModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny_model_folder, tmp_path / name))

    def hash_of(folder: Path) -> str:
        return LanguageModel.load(str(folder)).weights_hash

    assert hash_of(copy("same")) == tiny_model.weights_hash
    assert len(tiny_model.weights_hash) == 64

    # The same weights in several files are the same weights.
    split = copy("split")
    model = load_transformers(split)
    model.save_pretrained(split, max_shard_size="30KB")
    os.unlink(split / "model.safetensors")
    assert len(list(split.glob("*.safetensors"))) > 2
    assert hash_of(split) == tiny_model.weights_hash

    changed = copy("changed")
    tensors = load_file(changed / "model.safetensors")
    tensors["model.norm.weight"][5] += 1e-6
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    assert hash_of(changed) != tiny_model.weights_hash


def test_hash_of_tokenizer(
    tiny_model: LanguageModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "copied"))
    copied = LanguageModel.load(str(folder))
    # Using the tokenizer in another way leaves traces in it, which are no part of what it is.
    tokenizer: Any = copied.tokenizer
    tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert copied.tokenizer_hash == tiny_model.tokenizer_hash
    rules = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(
        rules.replace('"add_prefix_space": false', '"add_prefix_space": true', 1)
    )
    assert LanguageModel.load(str(folder)).tokenizer_hash != tiny_model.tokenizer_hash


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float23"}, "dtype 'float23' is unknown; use one of float32, float64"),
        ({"device": "gpu"}, r"device 'gpu' cannot be used here \(.*\); use cpu, cuda or auto"),
        ({"device": "cuda:77"}, r"device 'cuda:77' cannot be used here"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_loaded(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_load(*args: object) -> NoReturn:
        raise AssertionError("the model was looked for")

    monkeypatch.setattr("sparsteer.sae.language_model.model.locate", no_load)
    with pytest.raises(InputError, match=message) as caught:
        LanguageModel.load("smollm2-135m", **options)
    assert "\n" not in str(caught.value)


def test_auto_is_a_device_that_is_there(tiny_model_folder: Path) -> None:
    model = LanguageModel.load(str(tiny_model_folder), device="auto")
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert model.logits(random_tokens(1, 3)).device.type == model.device.type
