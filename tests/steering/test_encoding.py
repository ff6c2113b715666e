"""Texts to codes: batching changes nothing, order is kept, what is left out and cut is said."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsteer.sae import InputError, LanguageModel, Site, SparseAutoencoder
from sparsteer.sae.config import TopAFAConfig, TopKConfig
from sparsteer.sae.language_model import long_texts
from sparsteer.steering import encoding
from sparsteer.steering.encoding import EncodedText, encode_texts

N_LATENTS = 96
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "",
    "a",
    "ab",
    "Ünïcödé ☃ and a lone \ud800 half",
    "long " * 60,
    "<|eos|>in the middle<|bos|> of it<|pad|>",
    "<|eos|>",
]


@pytest.fixture(params=["topk", "top_afa"])
def sae(request: pytest.FixtureRequest, tiny_model: LanguageModel) -> SparseAutoencoder:
    if request.param == "topk":
        return SparseAutoencoder(TopKConfig(tiny_model.d_model, N_LATENTS, 7), seed=3)
    return SparseAutoencoder(TopAFAConfig(tiny_model.d_model, N_LATENTS), seed=3)


@pytest.fixture
def site(tiny_model: LanguageModel) -> Site:
    return tiny_model.site()


def language_model(site: Site) -> LanguageModel:
    assert isinstance(site.model, LanguageModel)
    return site.model


def encode(
    site: Site, sae: SparseAutoencoder, texts: Sequence[str | Sequence[int]], **options: Any
) -> list[EncodedText]:
    return list(encode_texts(language_model(site), site, sae, texts, **options))


def assert_same(ours: EncodedText, other: EncodedText) -> None:
    assert torch.equal(ours.tokens, other.tokens) and torch.equal(ours.kept, other.kept)
    assert ours.n_tokens == other.n_tokens
    torch.testing.assert_close(
        ours.codes.dense(N_LATENTS), other.codes.dense(N_LATENTS), rtol=1e-4, atol=1e-5
    )


def test_a_batch_equals_one_by_one(site: Site, sae: SparseAutoencoder) -> None:
    together = encode(site, sae, TEXTS)
    assert len(together) == len(TEXTS)
    for text, ours in zip(TEXTS, together, strict=True):
        (alone,) = encode(site, sae, [text])
        assert_same(ours, alone)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=12), max_size=6), batch_size=st.integers(1, 4))
def test_any_texts_keep_their_order(
    site: Site, sae: SparseAutoencoder, texts: list[str], batch_size: int
) -> None:
    got = encode(site, sae, texts, batch_size=batch_size)
    tokens = [language_model(site).tokenize(text) for text in texts]
    assert [one.tokens.numpy().tolist() for one in got] == tokens


def test_codes_are_those_of_the_sites_activations(site: Site, sae: SparseAutoencoder) -> None:
    (got,) = encode(site, sae, ["plain text"])
    tokens = torch.tensor([[1, *language_model(site).tokenize("plain text")]])
    # BOS and the first token are left out.
    expected = sae.encode(site.read(tokens)[0, 2:])
    torch.testing.assert_close(got.codes.dense(N_LATENTS), expected.dense(N_LATENTS))
    assert torch.equal(got.kept, torch.tensor([False] + [True] * 9))


def test_special_tokens_within_a_text_have_no_codes(site: Site, sae: SparseAutoencoder) -> None:
    text = "<|eos|>ab<|bos|>cd<|pad|>"
    (got,) = encode(site, sae, [text])
    assert got.n_tokens == 7
    assert torch.equal(got.kept, torch.tensor([0, 0, 1, 0, 1, 1, 0]).bool())
    assert got.codes.indices.shape[0] == 3


def test_empty_and_too_short_texts_are_told_apart(site: Site, sae: SparseAutoencoder) -> None:
    empty, short, longer = encode(site, sae, ["", "a", "ab"])
    assert empty.empty and not short.empty
    assert [len(one.codes.indices) for one in (empty, short, longer)] == [0, 0, 1]
    assert not (empty.truncated or short.truncated)


def test_truncation_is_reported(site: Site, sae: SparseAutoencoder) -> None:
    whole, cut = encode(site, sae, ["abcdefgh", "abcdefghi"], max_length=8)
    assert (whole.truncated, whole.n_tokens) == (False, 8)
    assert (cut.truncated, cut.n_tokens, len(cut.tokens)) == (True, 9, 8)
    assert_same(
        dataclasses.replace(cut, n_tokens=8),
        encode(site, sae, ["abcdefgh"])[0],
    )


def test_the_mean_activation_is_that_of_the_content_tokens(
    site: Site, sae: SparseAutoencoder
) -> None:
    model = site.model
    assert isinstance(model, LanguageModel)
    texts = ["abcdefgh", "a", "the cat sat on the mat", ""]
    for text, read in zip(texts, encode(site, sae, texts, mean_activations=True), strict=True):
        tokens = torch.tensor([[1, *model.tokenize(text)]])
        content = ~model.excluded_tokens(tokens)[0]
        expected = torch.zeros(site.width)
        if content.any():
            expected = site.read(tokens)[0, content].mean(0)
        assert read.mean_activation_D is not None
        assert torch.allclose(read.mean_activation_D, expected, atol=1e-5)
    assert all(read.mean_activation_D is None for read in encode(site, sae, texts))


def test_by_default_the_context_is_the_limit(site: Site, sae: SparseAutoencoder) -> None:
    (got,) = encode(site, sae, ["x" * 600])
    assert (len(got.tokens), got.n_tokens) == (language_model(site).max_context - 1, 600)


def test_token_lists_are_read_as_they_are(site: Site, sae: SparseAutoencoder) -> None:
    tokens = language_model(site).tokenize("some text")
    (from_tokens,), (from_text,) = encode(site, sae, [tokens]), encode(site, sae, ["some text"])
    assert_same(from_tokens, from_text)


def test_windows_bound_what_is_held(
    site: Site, sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts are taken from the source only as their results are wanted."""
    monkeypatch.setattr(encoding, "_WINDOW_TOKENS", 40)
    taken: list[str] = []

    def source() -> Iterator[str]:
        for text in TEXTS * 4:
            taken.append(text)
            yield text

    results = encode_texts(language_model(site), site, sae, source())
    next(results)
    assert len(taken) == 1  # its 44 tokens fill the first window
    rest = list(results)
    assert len(rest) == 4 * len(TEXTS) - 1
    for ours, whole in zip(rest, encode(site, sae, TEXTS * 4)[1:], strict=True):
        assert_same(ours, whole)


def test_long_texts_go_in_smaller_batches(
    site: Site, sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Size] = []
    read = Site.read

    def watched(self: Site, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append(tokens.shape)
        return read(self, tokens, mask)

    monkeypatch.setattr(Site, "read", watched)
    monkeypatch.setattr(encoding, "_BATCH_TOKENS", 100)
    encode(site, sae, ["ab" * 100, "abc", "ab" * 20, "ab" * 25, *["abcd"] * 9], batch_size=5)
    assert seen == [(1, 201), (2, 51), (5, 5), (5, 5)]


def test_wrong_input_is_an_input_error(site: Site, sae: SparseAutoencoder) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": 512}, "between 1 and the 511 tokens"),
        ({"batch_size": 0}, "batch_size is 0"),
    )
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            encode_texts(language_model(site), site, sae, ["text"], **options)
    other = SparseAutoencoder(TopKConfig(16, 40, 4))
    with pytest.raises(InputError, match=r"width 16.*width 32"):
        encode_texts(language_model(site), site, other, ["text"])


@pytest.mark.download
def test_a_batch_equals_one_by_one_on_the_default_model(default_model: LanguageModel) -> None:
    site = default_model.site()
    sae = SparseAutoencoder(TopKConfig(default_model.d_model, N_LATENTS, 12), seed=3)
    # A random dictionary that reads raw activations: their scale keeps the values near 1.
    sae.input_scale.fill_(0.1)
    together = encode(site, sae, TEXTS, batch_size=3)
    for text, ours in zip(TEXTS, together, strict=True):
        (alone,) = encode(site, sae, [text])
        assert torch.equal(ours.kept, alone.kept) and ours.n_tokens == alone.n_tokens
        torch.testing.assert_close(
            ours.codes.dense(N_LATENTS), alone.codes.dense(N_LATENTS), rtol=1e-3, atol=1e-2
        )


def test_a_long_text_is_tokenized_in_pieces(
    site: Site, sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "one word and then another " * 60
    (whole,) = encode(site, sae, [text], max_length=70)
    lengths: list[int] = []
    tokenize = language_model(site).tokenize

    def noted(text: str) -> list[int]:
        lengths.append(len(text))
        return tokenize(text)

    monkeypatch.setattr(language_model(site), "tokenize", noted)
    monkeypatch.setattr(long_texts, "PIECE_CHARACTERS", 100)
    (pieces,) = encode(site, sae, [text], max_length=70)
    assert pieces.n_tokens == whole.n_tokens == len(text) and pieces.truncated
    assert torch.equal(pieces.tokens, whole.tokens)
    assert max(lengths) <= 100
