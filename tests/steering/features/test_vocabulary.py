"""Token ids to text without the tokenizer."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae import LanguageModel
from sparsteer.steering.features.vocabulary import Vocabulary, load_tokenizer, token_bytes


@pytest.fixture(scope="module")
def vocabulary(tiny_model: LanguageModel) -> Vocabulary:
    return Vocabulary(token_bytes(tiny_model.tokenizer))


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(text=texts)
def test_a_text_comes_back_whole(
    vocabulary: Vocabulary, tiny_model: LanguageModel, text: str
) -> None:
    ids = tiny_model.tokenize(text)
    parts = vocabulary.texts(ids)
    assert len(parts) == len(ids) and "".join(parts) == text


@given(data=st.binary())
def test_any_bytes_come_back(data: bytes) -> None:
    """Cut anywhere: what is no UTF-8 stays, byte by byte."""
    vocabulary = Vocabulary([bytes([byte]) for byte in range(256)])
    parts = vocabulary.texts(list(data))
    assert "".join(parts).encode("utf-8", "surrogateescape") == data


def test_a_character_of_several_tokens_stands_at_the_first() -> None:
    vocabulary = Vocabulary([b"a\xf0\x9f", b"\x8e", b"\x89b", b"\x89"])
    assert vocabulary.texts([0, 1, 2]) == ["a🎉", "", "b"]
    assert vocabulary.texts([1, 2]) == ["\udc8e", "\udc89b"]
    assert vocabulary.texts([]) == []


def test_ids_beyond_the_tokenizer_are_named() -> None:
    assert Vocabulary([b"a"]).texts([0, 1, 7]) == ["a", "<token 1>", "<token 7>"]


def test_special_tokens_are_shown(vocabulary: Vocabulary, tiny_model: LanguageModel) -> None:
    assert tiny_model.bos_id is not None and tiny_model.eos_id is not None
    ids = [tiny_model.bos_id, tiny_model.eos_id]
    assert vocabulary.texts(ids) == ["<|bos|>", "<|eos|>"]


def test_tokens_of_a_sentencepiece_model() -> None:
    """Metaspace for spaces, and bytes in angle brackets, as in Llama 2."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "▁the": 1, "▁": 2, "<0xF0>": 3, "<0x9F>": 4, "é": 5, "<0xZZ>": 6}
    backend = Tokenizer(models.WordLevel(vocab=words, unk_token="<s>"))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    assert token_bytes(tokenizer) == [
        b"<s>", b" the", b" ", b"\xf0", b"\x9f", "é".encode(), b"<0xZZ>",
    ]  # fmt: skip


@pytest.mark.download
def test_the_default_vocabulary(default_model: LanguageModel) -> None:
    vocabulary = Vocabulary(token_bytes(default_model.tokenizer))
    for text in (
        "Hello 🎉 naïve\n\tжизнь \u202e",
        "中文 and 한국어",
        " ".join(map(chr, range(32, 999))),
    ):
        ids = default_model.tokenize(text)
        assert len(ids) < len(text.encode()), "tokens of several bytes"
        assert "".join(vocabulary.texts(ids)) == text
    assert default_model.bos_id is not None
    assert vocabulary.texts([default_model.bos_id]) == ["<|im_start|>"]


def test_the_tokenizer_loads_without_the_model(
    tiny_model: LanguageModel, vocabulary: Vocabulary
) -> None:
    tokenizer = load_tokenizer(tiny_model.name, lambda _: None)
    assert token_bytes(tokenizer) == vocabulary.tokens
