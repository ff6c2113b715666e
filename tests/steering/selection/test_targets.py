"""Selection in memory: similarity, embeddings, texts of rows, statistics, and the choice itself."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.kernels.codes import Codes
from sparsteer.kernels.topk import topk_select
from sparsteer.sae import InputError, LanguageModel, SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.steering.encoding import encode_texts
from sparsteer.steering.selection import (
    generalized_jaccard,
    retrieval_precision,
    select_for_target,
)
from sparsteer.steering.selection.embedding import SparseRows, mean_code
from sparsteer.steering.selection.selecting import best, rows_of_ratio

N_LATENTS = 64


@pytest.fixture
def sae(tiny_model: LanguageModel) -> SparseAutoencoder:
    return SparseAutoencoder(TopKConfig(tiny_model.d_model, N_LATENTS, 6), seed=5)


def random_codes(n_rows: int, n_latents: int = N_LATENTS, k: int = 9, seed: int = 1) -> Codes:
    """Rows with unused slots."""
    pre = torch.randn(n_rows, n_latents, generator=torch.Generator().manual_seed(seed)) - 1
    return topk_select(pre, k)


# Similarity


def test_sparse_and_dense_codes_agree() -> None:
    codes, prototype = random_codes(300), torch.rand(N_LATENTS)
    sparse = generalized_jaccard(codes, prototype)
    dense = generalized_jaccard(codes.dense(N_LATENTS), prototype)
    torch.testing.assert_close(sparse, dense, rtol=1e-6, atol=0)
    minima = torch.minimum(codes.dense(N_LATENTS), prototype).double().sum(-1)
    maxima = torch.maximum(codes.dense(N_LATENTS), prototype).double().sum(-1)
    torch.testing.assert_close(sparse.double(), minima / maxima, rtol=1e-6, atol=0)


def test_a_row_is_like_itself_and_unlike_what_it_shares_nothing_with() -> None:
    codes = random_codes(5)
    for row in codes.dense(N_LATENTS):
        assert generalized_jaccard(row[None], row).item() == pytest.approx(1)
        other = torch.where(row > 0, 0, torch.rand(N_LATENTS))
        assert generalized_jaccard(row[None], other).item() == 0
        assert generalized_jaccard(row[None], row / 4).item() == pytest.approx(1 / 4)


def test_nothing_against_nothing_is_zero() -> None:
    nothing = torch.zeros(2, N_LATENTS)
    assert torch.equal(generalized_jaccard(nothing, nothing[0]), torch.zeros(2))
    codes = Codes(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3))
    assert torch.equal(generalized_jaccard(codes, nothing[0]), torch.zeros(2))


@given(order=st.permutations(range(12)), seed=st.integers(0, 99))
def test_renaming_latents_changes_nothing(order: list[int], seed: int) -> None:
    codes, prototype = random_codes(7, 12, 4, seed), torch.rand(12)
    new_name = torch.tensor(order)
    renamed = Codes(new_name[codes.indices], codes.values)
    moved = torch.empty(12).index_copy_(0, new_name, prototype)
    torch.testing.assert_close(
        generalized_jaccard(renamed, moved), generalized_jaccard(codes, prototype)
    )


@pytest.mark.usefixtures("without_type_checks")
def test_wrong_shapes_and_signs_are_named() -> None:
    codes, p = random_codes(2), torch.rand(N_LATENTS)
    with pytest.raises(ValueError, match=r"64 latents, the prototype 3"):
        generalized_jaccard(codes.dense(N_LATENTS), p[:3])
    with pytest.raises(ValueError, match="negative"):
        generalized_jaccard(codes.dense(N_LATENTS) - 1, p)
    with pytest.raises(ValueError, match="negative"):
        generalized_jaccard(codes.dense(N_LATENTS), -p)
    stacked = Codes(codes.indices[None], codes.values[None])
    with pytest.raises(ValueError, match=r"\[1, 2, 9\]"):
        generalized_jaccard(stacked, p)


# Embeddings


def test_the_embedding_is_the_mean_over_tokens() -> None:
    codes = random_codes(11)
    mean = mean_code(codes, N_LATENTS)
    expected = codes.dense(N_LATENTS).mean(0)
    torch.testing.assert_close(Codes(*mean).dense(N_LATENTS), expected)
    assert len(mean.indices) == int((expected > 0).sum())
    nothing = mean_code(Codes(*(part[:0] for part in codes[:2])), N_LATENTS)
    assert len(nothing.indices) == len(nothing.values) == 0


def test_nan_stays_in_an_embedding() -> None:
    codes = random_codes(3)
    codes.values[1, 0] = torch.nan
    assert mean_code(codes, N_LATENTS).values.isnan().sum() == 1


def test_rows_stack_choose_average_and_compare() -> None:
    tokens = [random_codes(n, seed=n) for n in (4, 1, 7)]
    tokens.insert(1, Codes(*(part[:0] for part in tokens[0][:2])))
    rows = SparseRows.stack([mean_code(codes, N_LATENTS) for codes in tokens], N_LATENTS)
    dense = torch.stack([codes.dense(N_LATENTS).sum(0) / max(1, len(codes[0])) for codes in tokens])
    assert len(rows) == 4
    torch.testing.assert_close(rows.mean(), dense.mean(0))
    taken = rows.take([3, 0])
    torch.testing.assert_close(taken.mean(), dense[[3, 0]].mean(0))
    prototype = rows.mean()
    torch.testing.assert_close(rows.similarities(prototype), generalized_jaccard(dense, prototype))
    with pytest.raises(ValueError, match="no rows"):
        rows.take([]).mean()


# The choice


def test_the_best_are_taken_and_of_equal_ones_the_first() -> None:
    scores = [0.5, None, 0.9, 0.5, 0.1, 0.5]
    assert best(scores, 1) == [2]
    assert best(scores, 3) == [0, 2, 3]
    assert best(scores, 9) == [0, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "ratio, n_rows, expected", [(0.05, 441, 22), (0.5, 5, 3), (1e-9, 7, 1), (1.0, 7, 7)]
)
def test_a_ratio_is_of_all_rows(ratio: float, n_rows: int, expected: int) -> None:
    assert rows_of_ratio(ratio, n_rows) == expected


def test_selection_in_memory_is_the_definition(
    tiny_model: LanguageModel, sae: SparseAutoencoder
) -> None:
    site = tiny_model.site()
    words = ["sun moon star", "11 + 22 = 33", "the moon is far", "7 * 6 = 42", "", "x"]
    target = ["5 + 5 = 10", "8 * 2 = 16"]
    found = select_for_target(
        tiny_model,
        site,
        sae,
        [{"text": word} for word in words],
        [{"question": text[:5], "answer": text[6:]} for text in target],
        0.34,
    )

    def embed(text: str) -> torch.Tensor:
        (read,) = encode_texts(tiny_model, site, sae, [text])
        return read.codes.dense(N_LATENTS).mean(0)

    prototype = torch.stack([embed(f"{text[:5]}\n\n{text[6:]}") for text in target]).mean(0)
    expected = generalized_jaccard(torch.stack([embed(word) for word in words[:4]]), prototype)
    scores = [row.score for row in found.rows]
    assert scores[:4] == pytest.approx(expected.numpy().tolist(), rel=1e-5)
    assert scores[4:] == [None, None]
    assert [row.status for row in found.rows] == ["ok"] * 4 + ["empty", "too_short"]
    assert [row.tokens for row in found.rows] == [*map(len, words)]
    assert found.chosen == sorted(int(n) for n in expected.argsort(descending=True)[:2])


def test_an_overflowing_row_has_a_status(
    tiny_model: LanguageModel, sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tiny_model.site()
    z = tiny_model.tokenize("z")[0]
    read = type(site).read

    def overflowing(self: Any, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        acts = read(self, tokens, mask)
        return torch.where((tokens == z)[..., None], torch.inf, acts)

    monkeypatch.setattr(type(site), "read", overflowing)
    pool, target = [{"text": "fine"}, {"text": "crazy"}], [{"text": "target"}, {"text": "lazy"}]
    found = select_for_target(tiny_model, site, sae, pool, target, 1.0)
    assert [row.status for row in found.rows] == ["ok", "non_finite"]
    assert [row.status for row in found.target.rows] == ["ok", "non_finite"]
    assert len(found.target.readable.rows) == 1
    assert found.target.readable.mean_code_F.isfinite().all()
    assert found.chosen == [0] and found.rows[1].score is None


def test_groups_are_found_again(tiny_model: LanguageModel, sae: SparseAutoencoder) -> None:
    rows = [{"text": f"{a} + {b} = {a + b}", "group": "sum"} for a in (3, 14, 25) for b in (7, 18)]
    words = ["a quiet morning", "the grey cat sleeps", "rain fell", "we went home", "she sang"]
    rows += [{"text": word, "group": "words"} for word in words * 2]
    rows += [{"text": "alone", "group": "rare"}, {"text": "without"}]
    site = tiny_model.site()
    found = retrieval_precision(tiny_model, site, sae, rows, n_targets=2, ratio=0.25, draws=3)
    assert list(found) == ["words", "sum"]
    for group, size in (("sum", 6), ("words", 10)):
        one = found[group]
        assert (one["target"], one["pool"], one["selected"]) == (2, 16, 4)
        assert one["precision_of_random"] == pytest.approx((size - 2) / 16)
        assert len(one["precisions"]) == 3 and min(one["precisions"]) >= 0.75
        assert one["precision_of_target_source"] == pytest.approx(sum(one["precisions"]) / 3)
        assert -1 <= one["spearman_tokens"] <= 1
    # "3 + 7 = 10" is about as long as "rain fell".
    assert 0 < found["sum"]["precision_of_length"] < 1
    with pytest.raises(InputError, match="has more than 10 rows"):
        retrieval_precision(tiny_model, site, sae, rows, n_targets=10)


def test_a_recovered_group_is_a_selection(
    tiny_model: LanguageModel, sae: SparseAutoencoder
) -> None:
    """One draw of one group, done by hand."""
    rows = [{"text": f"{n} {'ab' * n}", "group": "xy"[n % 3 == 0]} for n in range(9)]
    site = tiny_model.site()
    found = retrieval_precision(
        tiny_model, site, sae, rows, n_targets=2, ratio=0.5, draws=1, seed=4
    )["y"]
    fractions: set[float] = set()
    for hidden in ((0, 3), (0, 6), (3, 6)):
        pool = [row for n, row in enumerate(rows) if n not in hidden]
        target = [rows[n] for n in hidden]
        chosen = select_for_target(tiny_model, site, sae, pool, target, 0.5).chosen
        fractions.add(sum(pool[n]["group"] == "y" for n in chosen) / len(chosen))
    assert found["precision_of_target_source"] in fractions


def test_wrong_input_of_a_selection(tiny_model: LanguageModel, sae: SparseAutoencoder) -> None:
    site, pool = tiny_model.site(), [{"text": "some text"}]
    cases: list[tuple[list[dict[str, Any]], list[dict[str, Any]], float, str]] = [
        (pool, pool, 0.0, "ratio is 0"),
        (pool, pool, 1.5, "ratio is 1.5"),
        (pool, pool, math.nan, "ratio is nan"),
        (pool, [], 0.5, "the target has no rows"),
        ([], pool, 0.5, "the pool has no rows"),
        (pool, [{"text": ""}, {"text": "x"}], 0.5, r"no example.*\(status empty, too_short\)"),
        ([{"body": "text"}], pool, 0.5, "none of the fields"),
    ]
    for rows, target, ratio, message in cases:
        with pytest.raises(InputError, match=message):
            select_for_target(tiny_model, site, sae, rows, target, ratio)
