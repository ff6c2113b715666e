"""Reading and pooling: batches change nothing, and each pooling is the mean that it says."""

from typing import Any

import pytest
import torch

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.fitting.capture import (
    BATCH_TOKENS,
    TextTokens,
    batches_by_length,
    capture,
    tokenize_texts,
)
from sparsteer.steering.fitting.pooling import (
    Weights,
    answer_token,
    last_token,
    matched_positions,
    pooled_rows,
    text_mean,
    token_from_end,
    token_mean,
    token_rows,
)

from ..plain_families import Twins
from .conftest import listed

TEXTS = ["b", "a few words", "", "some more of these words"]
SITES = ("blocks.0.hook_resid_mid", "blocks.2.hook_resid_post")


def tokens_of(*ids: int, n_special: int = 2) -> TextTokens:
    content_L = torch.arange(len(ids)) >= n_special
    return TextTokens(ids, content_L, truncated=False)


def test_a_batch_gives_what_each_text_gives_alone(both: Twins) -> None:
    for model in (both.bridge, both.plain):
        sites = [model.site(name) for name in SITES]
        texts = tokenize_texts(model, TEXTS)
        found = {text.number: text.rows for text in capture(model, sites, texts)}
        assert sorted(found) == [0, 1, 2, 3]
        for number, text in enumerate(texts):
            for site in sites:
                alone_LD = site.read(torch.tensor([text.ids]))[0]
                torch.testing.assert_close(found[number][site.name], alone_LD, rtol=0, atol=1e-12)


def test_content_is_all_but_special_tokens_and_the_first(both: Twins) -> None:
    texts = tokenize_texts(both.plain, [*TEXTS, "abcdef"], max_length=4)
    assert [text.n_content for text in texts] == [0, 3, 0, 3, 3]
    assert [text.truncated for text in texts] == [False, True, False, True, True]
    assert texts[1].ids[0] == both.plain.bos_id
    assert listed(texts[1].content_L) == [False, False, True, True, True]
    with pytest.raises(InputError, match="max_length is 100000"):
        tokenize_texts(both.plain, TEXTS, max_length=100_000)


def test_batches_are_by_length_and_of_limited_size() -> None:
    texts = [tokens_of(*range(n)) for n in (3, 0, 9, 5, 7)]
    assert list(batches_by_length(texts, 2)) == [[2, 4], [3, 0]]
    assert list(batches_by_length(texts, 16, most_tokens=14)) == [[2], [4, 3], [0]]
    assert list(batches_by_length([tokens_of(*range(BATCH_TOKENS + 5))], 4)) == [[0]]
    with pytest.raises(InputError, match="batch_size is 0"):
        list(batches_by_length(texts, 0))


@pytest.mark.parametrize("pooling", [token_mean, text_mean, last_token])
def test_a_pooled_row_is_a_mean_over_content(both: Twins, pooling: Any) -> None:
    model, texts = both.plain, tokenize_texts(both.plain, TEXTS)
    sites = [model.site(name) for name in SITES]
    weights: Weights = pooling(texts)
    found = pooled_rows(model, sites, texts, weights, batch_size=3)
    assert listed(found.texts_N) == [1, 3]
    assert listed(found.weights_N) == pytest.approx([10, 23] if pooling is token_mean else [1, 1])
    for site in sites:
        for row_D, number in zip(found.rows[site.name], (1, 3), strict=True):
            content_CD = site.read(torch.tensor([texts[number].ids]))[0][texts[number].content_L]
            expected_D = content_CD[-1] if pooling is last_token else content_CD.mean(0)
            torch.testing.assert_close(row_D, expected_D, rtol=0, atol=1e-12)


def test_the_answer_is_where_a_pair_differs() -> None:
    one, other = tokens_of(1, 5, 6, 7, 9), tokens_of(1, 5, 6, 8)
    assert [listed(w) for w in answer_token([one, other])] == [[0, 0, 0, 1, 0], [0, 0, 0, 1]]
    same = answer_token([tokens_of(1, 5), tokens_of(1, 5, 6)])
    assert not any(w.any() for w in same)
    assert [listed(w) for w in token_from_end([one, tokens_of(1)], -2)] == [[0, 0, 0, 1, 0], [0]]
    cut = TextTokens(one.ids, one.content_L, truncated=True)
    assert not token_from_end([cut], -1)[0].any()


def test_matched_positions_weigh_alike_on_both_sides() -> None:
    texts = [tokens_of(*range(n)) for n in (4, 9, 6, 5, 5, 12)]
    positive = [True, True, False, False, False, False]
    totals = torch.zeros(2, 12, dtype=torch.float64)
    for weights_L, side in zip(matched_positions(texts, positive), positive, strict=True):
        totals[int(side), : len(weights_L)] += weights_L
    torch.testing.assert_close(totals[0], totals[1])
    assert listed(totals[0]) == [0, 0, 2, 2, 1, 1, 1, 1, 1, 0, 0, 0]


def test_matched_positions_take_off_what_lengths_do(both: Twins) -> None:
    """Where position and token embeddings are added, the sets differ in nothing but tokens."""
    model, site = both.plain, both.plain.site("blocks.0.hook_resid_pre")
    words = ["a" * n for n in (4, 11, 7)] + ["b" * n for n in (5, 25)]
    positive = [True, True, True, False, False]
    texts = tokenize_texts(model, words)
    embedding = both.hf.get_input_embeddings().weight.detach()
    expected_D = embedding[texts[0].ids[-1]] - embedding[texts[-1].ids[-1]]
    for weights, is_exact in (
        (matched_positions(texts, positive), True),
        (token_mean(texts), False),
    ):
        found = pooled_rows(model, [site], texts, weights)
        shares_N = found.weights_N * torch.where(torch.tensor(positive), 1.0, -1.0)
        sums = [shares_N[side].sum().abs() for side in (shares_N > 0, shares_N < 0)]
        signed_N = torch.where(shares_N > 0, shares_N / sums[0], shares_N / sums[1])
        difference_D = signed_N @ found.rows[site.name]
        error = float((difference_D - expected_D).abs().max())
        assert (error < 1e-12) == is_exact


def test_rows_of_tokens_are_all_or_a_sample(both: Twins) -> None:
    model, site = both.plain, both.plain.site(SITES[0])
    texts = tokenize_texts(model, TEXTS)
    every = token_rows(model, [site], texts)
    assert len(every.texts_N) == sum(text.n_content for text in texts)
    expected_CD = site.read(torch.tensor([texts[1].ids]))[0][texts[1].content_L]
    torch.testing.assert_close(every.rows[site.name][every.texts_N == 1], expected_CD)
    some = token_rows(model, [site], texts, most=15, seed=3)
    assert 0 < len(some.texts_N) < len(every.texts_N)
    turned = token_rows(model, [site], texts[::-1], most=15, seed=3)
    one, other = (found.rows[site.name].sort(dim=0).values for found in (some, turned))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert len(token_rows(model, [site], texts[:1]).texts_N) == 0


def test_activations_that_are_no_numbers_are_refused(both: Twins) -> None:
    model, site = both.plain, both.plain.site(SITES[0])
    texts = tokenize_texts(model, TEXTS)
    with (
        site.write(lambda acts: acts * torch.nan),
        pytest.raises(InputError, match="have NaN or infinite values"),
    ):
        pooled_rows(model, [site], texts, text_mean(texts))
