"""Monosemanticity without a judge, on latents whose meaning is planted."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import InputError, LanguageModel, SparseAutoencoder, TopKConfig
from sparsteer.sae.config import JumpReLUConfig
from sparsteer.training.data.cache.held_out_rows import HeldOutRows, held_out_rows
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.data.cache.shards import EncodedRows
from sparsteer.training.evaluation.latents.example_agreement import agreement
from sparsteer.training.evaluation.latents.latent_sample import sample_latents, strongest_rows
from sparsteer.training.evaluation.latents.meaning import meaning
from sparsteer.training.evaluation.latents.meaning_config import MeaningSettings
from sparsteer.training.evaluation.latents.summaries import summary
from sparsteer.training.evaluation.latents.token_explained import (
    share_of_one_token,
    token_explained,
)
from sparsteer.training.evaluation.latents.window_embeddings import mean_around, rows_around

from ....tiny_runs import SITE, cache_of_texts, random_topk

N_TOKENS = 40


def rows_of(codes_NF: Tensor, tokens_N: Tensor, *, per_document: int = 20) -> HeldOutRows:
    """Rows that are codes already, a context for each document."""
    n_rows = len(codes_NF)
    number_N = torch.arange(n_rows)
    document_N, offset_N = number_N // per_document, number_N % per_document
    contexts = torch.zeros(int(document_N[-1]) + 1, per_document, dtype=torch.int64)
    contexts[document_N, offset_N] = tokens_N
    return HeldOutRows(
        SITE,
        EncodedRows(codes_NF.float()),
        contexts,
        torch.ones_like(contexts, dtype=torch.bool),
        document_N,
        offset_N,
        document_N,
        torch.ones(n_rows, dtype=torch.bool),
    )


def identity(width: int) -> SparseAutoencoder:
    """An autoencoder whose latents are the coordinates, those above 0."""
    config = JumpReLUConfig(width, width, fixed_thresholds=True)
    sae = SparseAutoencoder(config)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(width))
        sae.W_dec.copy_(torch.eye(width))
    return sae


@pytest.fixture(scope="module")
def planted() -> HeldOutRows:
    """Latents: one token; three tokens; independent of the token; the token and as much noise;
    dead."""
    generator = torch.Generator().manual_seed(0)
    tokens_N = torch.randint(0, N_TOKENS, (8000,), generator=generator)
    normal_N2 = torch.randn(8000, 2, generator=generator)
    chance_N = torch.rand(8000, generator=generator)
    codes_NF = torch.stack(
        [
            2.0 * (tokens_N == 7),
            (tokens_N < 3) * (tokens_N + 1.0),
            (chance_N < 0.1) * 3.0,
            5 + (tokens_N % 2) * 2 - 1 + normal_N2[:, 0],
            torch.zeros(8000),
        ],
        dim=-1,
    )
    return rows_of(codes_NF, tokens_N)


def test_the_token_explains_what_it_was_made_to_explain(planted: HeldOutRows) -> None:
    sample = sample_latents(identity(5), planted, 5, seed=0)
    assert sample.latents.numpy().tolist() == [0, 1, 2, 3] and (sample.n_drawn, sample.n_alive) == (
        5,
        4,
    )
    found = token_explained(sample, planted.tokens, planted.document, planted.kept, seed=0)
    assert found[:2].numpy().tolist() == pytest.approx([1, 1], abs=1e-9)
    assert abs(found[2]) < 0.01
    assert float(found[3]) == pytest.approx(0.5, abs=0.03)


def test_tokens_seen_once_do_not_pull_the_score_below_zero() -> None:
    """The means of rare tokens are noise; taken as they are they would make R^2 about -1."""
    generator = torch.Generator().manual_seed(1)
    tokens_N = torch.randint(0, 3000, (4000,), generator=generator)
    codes_NF = torch.randn(4000, 20, generator=generator) + 5
    rows = rows_of(codes_NF, tokens_N)
    sample = sample_latents(identity(20), rows, 20, seed=0)
    found = token_explained(sample, tokens_N, rows.document, rows.kept, seed=3)
    assert found.abs().max() < 0.05


def test_a_permutation_of_latents_permutes_the_scores_and_a_seed_repeats_them(
    planted: HeldOutRows,
) -> None:
    order = torch.tensor([3, 1, 4, 0, 2])
    tokens, documents = planted.tokens, planted.document
    one = sample_latents(identity(5), planted, 5, seed=0)
    other = sample_latents(identity(5), rows_of(planted.stored.values[:, order], tokens), 5, seed=0)
    before = token_explained(one, tokens, documents, planted.kept, seed=2)
    after = token_explained(other, tokens, documents, planted.kept, seed=2)
    assert torch.equal(after, before[[3, 1, 0, 2]])
    again = token_explained(one, tokens, documents, planted.kept, seed=2)
    assert torch.equal(again, before)


def test_rows_that_do_not_count_change_nothing(planted: HeldOutRows) -> None:
    planted.stored.values[::50, 2] += 100  # what an attention sink would do
    kept_N = torch.ones(8000, dtype=torch.bool)
    kept_N[::50] = False
    rows = dataclasses.replace(planted, kept=kept_N)
    sample = sample_latents(identity(5), rows, 5, seed=0)
    assert kept_N[sample.rows].all()
    assert abs(token_explained(sample, rows.tokens, rows.document, kept_N, seed=0)[2]) < 0.01
    planted.stored.values[::50, 2] -= 100


def test_the_share_of_one_token(planted: HeldOutRows) -> None:
    sample = sample_latents(identity(5), planted, 5, seed=0)
    shares = share_of_one_token(sample, planted.tokens, planted.document, 10)
    assert shares[0] == 1 and shares[1] == 1  # its largest activations are all on token 2
    assert 0.1 <= shares[2] < 0.5


def test_fewer_latents_than_fire_are_a_sample_of_them() -> None:
    rows = rows_of(torch.rand(200, 30), torch.zeros(200, dtype=torch.int64))
    drawn = [sample_latents(identity(30), rows, 8, seed=seed).latents for seed in (0, 0, 1)]
    assert len(drawn[0]) == 8 and torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_examples_are_one_of_each_document() -> None:
    rows_M = torch.tensor([0, 1, 25, 45, 46])
    places = strongest_rows(rows_M, torch.tensor([5.0, 9, 3, 7, 7]), torch.arange(60) // 20, 3)
    assert places.numpy().tolist() == [1, 3, 2]


def topics(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Texts of ten topics, whose vectors are near their topic's; tokens, documents."""
    generator = torch.Generator().manual_seed(seed)
    topic_N = torch.randint(0, 10, (2000,), generator=generator)
    vectors = torch.randn(10, 16, generator=generator)[topic_N]
    vectors = vectors + 0.1 * torch.randn(2000, 16, generator=generator)
    tokens_N = torch.randint(0, 5, (2000,), generator=generator)
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return vectors.half(), topic_N, tokens_N, torch.arange(2000)


def test_examples_of_one_topic_agree_and_random_ones_are_at_chance() -> None:
    vectors, topic_N, tokens_N, documents_N = topics(0)
    usable_N = torch.ones(2000, dtype=torch.bool)
    of_topic = [(topic_N == topic).nonzero()[:10, 0] for topic in range(10)]
    found = agreement(of_topic, vectors, tokens_N, documents_N, usable_N, seed=0)
    assert float(found.beyond_token.mean()) > 0.9 and float(found.in_all.mean()) > 0.9
    by_chance = [torch.randperm(2000)[:10] for _ in range(60)]
    found = agreement(by_chance, vectors, tokens_N, documents_N, usable_N, seed=0)
    for values in (found.beyond_token, found.in_all):
        result = summary(values)
        assert result["low"] < 0.5 < result["high"]


def test_what_the_token_alone_says_is_no_agreement_beyond_it() -> None:
    """The vectors are those of the tokens: alike in all, and chance with the token given."""
    _, _, tokens_N, documents_N = topics(1)
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(5, 16, generator=generator)[tokens_N]
    vectors = vectors + 0.3 * torch.randn(2000, 16, generator=generator)
    vectors = torch.nn.functional.normalize(vectors, dim=-1).half()
    of_token = [(tokens_N == token).nonzero()[:40, 0] for token in range(5)]
    usable_N = torch.ones(2000, dtype=torch.bool)
    found = agreement(of_token, vectors, tokens_N, documents_N, usable_N, seed=0)
    assert float(found.in_all.min()) > 0.8
    assert float(found.beyond_token.mean()) == pytest.approx(0.5, abs=0.02)


def test_a_token_without_another_text_has_nothing_to_compare() -> None:
    vectors, _, _, documents_N = topics(0)
    tokens_N = torch.arange(2000)
    usable_N = torch.ones(2000, dtype=torch.bool)
    found = agreement([torch.arange(5)], vectors, tokens_N, documents_N, usable_N, seed=0)
    assert found.beyond_token.isnan().all() and not found.in_all.isnan().any()


def test_means_around_rows_stay_in_their_document() -> None:
    rows = rows_of(torch.arange(12.0)[:, None], torch.zeros(12, dtype=torch.int64), per_document=5)
    ranges = rows_around(rows, 2, 1)
    found = mean_around(rows.stored.values, ranges, first_row=0)[:, 0].numpy().tolist()
    parts = [range(5), range(5, 10), range(10, 12)]
    expected: list[float] = []
    for part in parts:
        for row in part:
            around = [r for r in part if row - 2 <= r <= row + 1 and r != row]
            expected.append(sum(around) / len(around))
    assert found == pytest.approx(expected)
    alone = rows_of(torch.ones(1, 1), torch.zeros(1, dtype=torch.int64))
    assert mean_around(alone.stored.values, rows_around(alone, 2, 2), first_row=0).item() == 0


def test_held_out_rows_are_those_of_the_cache(planted_cache: Path) -> None:
    cache = ActivationCache(planted_cache)
    rows = held_out_rows(cache, outlier_norm=0.0)
    (place, all_rows), *_ = rows.blocks(torch.device("cpu"), 10**6)
    assert place.start == 0 and torch.equal(all_rows, cache.held_out())
    assert torch.equal(rows.document, cache.held_out_documents())
    tokens_CL, mask_CL = cache.held_out_contexts()
    assert torch.equal(rows.contexts, tokens_CL) and torch.equal(rows.mask, mask_CL)
    few = held_out_rows(cache, contexts=7, outlier_norm=0.0)
    assert torch.equal(few.contexts, cache.held_out_contexts(7)[0])
    for row in range(0, len(few.context), 11):
        same = (rows.document == few.document[row]) & (rows.offset == few.offset[row])
        assert torch.equal(rows.stored.values[same][0], few.stored.values[row])
        assert rows.tokens[same][0] == few.tokens[row]
    loud = held_out_rows(cache, outlier_norm=1.0)
    norms = all_rows.square().sum(-1).sqrt()
    assert torch.equal(loud.kept, norms <= norms.median())


@pytest.mark.slow
def test_the_measures_of_several_are_those_of_each(
    tiny_model: LanguageModel, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(4)
    letters = "abcdefgh "
    draws = torch.randint(0, 9, (120, 40), generator=generator).numpy()
    texts = ["".join(letters[i] for i in draw) for draw in draws]
    folder = cache_of_texts(tmp_path, tiny_model, texts, context_length=24, held_out_fraction=0.5)
    cache = ActivationCache(folder)
    saes = [random_topk(tiny_model, 24), random_topk(tiny_model, 40, seed=3)]
    settings = MeaningSettings(latents=12, contexts=60, examples=4, before=6, after=2)
    together = meaning(saes, cache, tiny_model, settings)
    for sae, result in zip(saes, together, strict=True):
        assert meaning([sae], cache, tiny_model, settings) == [result]
        assert result["agreement"]["embedding_site"] == SITE
        for kind in ("top", "weighted"):
            assert result["agreement"][kind]["in_all"]["count"] == result["agreement"]["latents"]
        # Bytes of a random model: the token says something, and is no whole explanation.
        assert 0 < result["token_explained"]["mean"] < 1
    without = meaning(saes, cache, None, settings)
    assert [r["agreement"] for r in without] == [None, None]
    assert without[0]["token_explained"] == together[0]["token_explained"]


@pytest.mark.parametrize("change", [{"examples": 2}, {"latents": 0}, {"before": 0, "after": 0}])
def test_wrong_settings_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        MeaningSettings(**change)


def test_no_value_has_no_mean() -> None:
    assert summary(torch.tensor([torch.nan]))["mean"] is None
    one = summary(torch.tensor([2.0]))
    assert one["mean"] == 2 and one["low"] is None and one["quantiles"]["p50"] == 2


def test_topk_is_sampled_too() -> None:
    sae = SparseAutoencoder(TopKConfig(6, 10, 2), seed=1)
    rows = rows_of(torch.randn(300, 6), torch.zeros(300, dtype=torch.int64))
    sample = sample_latents(sae, rows, 10, seed=0)
    dense = sae.encode(rows.stored.values).dense(10)
    for place, latent in enumerate(sample.latents.numpy().tolist()):
        fired, values = sample.of(place)
        assert torch.equal(fired, dense[:, latent].nonzero()[:, 0])
        assert torch.equal(values, dense[fired, latent].detach())


def test_latents_may_have_different_numbers_of_examples() -> None:
    vectors, _, tokens_N, documents_N = topics(0)
    usable_N = torch.ones(2000, dtype=torch.bool)
    examples = [torch.arange(3 + n % 5) for n in range(20)]
    found = agreement(examples, vectors, tokens_N, documents_N, usable_N, seed=0)
    assert found.in_all.shape == (20,) and not found.in_all.isnan().any()
