"""Merging examples, with ties and repeated windows, against sorting everything at once."""

import random
from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsteer.kernels.codes import Codes
from sparsteer.steering.features.hashing import mixed, priorities
from sparsteer.steering.features.tables import Candidates, ExampleTable, one_per_context
from sparsteer.steering.features.windows import CacheChunk, SortedCodes, windows

N_LATENTS, N_EXAMPLES, LENGTH = 5, 3, 6


def chunk_of(tokens_CL: Tensor, first_row: int) -> CacheChunk:
    """Contexts of one document each; every token but BOS has a row."""
    n_contexts, length = tokens_CL.shape
    offset = torch.arange(1, length).repeat(n_contexts)
    context = torch.arange(n_contexts).repeat_interleave(length - 1)
    return CacheChunk(
        rows_RD=torch.zeros(len(offset), 2),
        first_row=first_row,
        contexts=tokens_CL,
        lengths=torch.full((n_contexts,), length),
        context=context,
        offset=offset,
        doc=context + first_row,
        position=offset - 1,
        kept=torch.ones_like(offset, dtype=torch.bool),
        has_bos=True,
    )


def activations_of(dense_RF: Tensor) -> SortedCodes:
    values, indices = dense_RF.topk(dense_RF.shape[1])
    return SortedCodes([(torch.arange(len(dense_RF)), Codes(indices, values))], len(dense_RF))


@given(seed=st.integers(0, 10_000), n_pieces=st.integers(1, 4), n_contexts=st.integers(1, 5))
def test_merging_equals_sorting_everything(seed: int, n_pieces: int, n_contexts: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = ExampleTable(
        N_LATENTS, N_EXAMPLES, 4, score_dtype=torch.float32, distinct=True, device="cpu"
    )
    seen: list[tuple[int, int, tuple[int, ...], list[float]]] = []
    first_row = 0
    for _ in range(n_pieces):
        # Two tokens and three activations, so that windows and values come again and again.
        tokens = torch.randint(3, 5, (n_contexts, LENGTH), generator=generator)
        n_rows = n_contexts * (LENGTH - 1)
        dense = torch.randint(0, 4, (n_rows, N_LATENTS), generator=generator).float() / 2
        chunk = chunk_of(tokens, first_row)
        activations = activations_of(dense)
        around = windows(chunk, 2, 1)
        fired = Candidates(activations.latents, activations.rows, activations.values)
        table.offer(one_per_context(fired, chunk.context), chunk, around, activations)
        for row in range(n_rows):
            window = tuple(around.tokens[row].numpy().tolist())
            context = int(chunk.context[row]) + first_row * 1000
            seen.append((first_row + row, context, window, dense[row].numpy().tolist()))
        first_row += n_rows
    for latent in range(N_LATENTS):
        assert table.rows[latent].numpy().tolist() == expected_rows(seen, latent)
        scores = table.scores[latent]
        assert torch.equal(table.activations[latent, scores > 0, 2], scores[scores > 0])


def expected_rows(
    seen: list[tuple[int, int, tuple[int, ...], list[float]]], latent: int
) -> list[int]:
    """The best row of each context, then the best of each window, the first of equal ones."""
    kept: list[int] = []
    contexts: set[int] = set()
    taken: set[tuple[int, ...]] = set()
    for row, context, window, values in sorted(seen, key=lambda entry: -entry[3][latent]):
        if values[latent] > 0 and context not in contexts:
            contexts.add(context)
            if window not in taken:
                taken.add(window)
                kept.append(row)
    return (kept + [-1] * N_EXAMPLES)[:N_EXAMPLES]


def test_nothing_that_fires_leaves_the_table_empty() -> None:
    table = ExampleTable(2, 3, 3, score_dtype=torch.float32, distinct=True, device="cpu")
    chunk = chunk_of(torch.randint(3, 9, (2, LENGTH)), 0)
    activations = activations_of(torch.zeros(10, 2))
    fired = Candidates(activations.latents, activations.rows, activations.values)
    best = one_per_context(fired, chunk.context)
    table.offer(best, chunk, windows(chunk, 1, 1), activations)
    assert (table.rows == -1).all() and (table.scores == -1).all()


def test_random_examples_are_a_uniform_sample() -> None:
    """Each of 60 firings is drawn equally often by 3,000 latents: a chi-square test."""
    n_latents, n_rows, n_drawn = 3000, 60, 6
    table = ExampleTable(
        n_latents, n_drawn, 1, score_dtype=torch.int64, distinct=False, device="cpu"
    )
    for first_row in range(0, n_rows, 20):
        chunk = chunk_of(torch.randint(3, 9, (4, LENGTH)), first_row)
        activations = activations_of(torch.rand(20, n_latents) + 0.1)
        latents, rows = activations.latents, activations.rows
        candidates = Candidates(latents, rows, priorities(latents, rows + first_row, seed=7))
        table.offer(candidates, chunk, windows(chunk, 0, 0), activations)
    drawn = Counter(int(row) for row in table.rows.flatten())
    assert sorted(drawn) == list(range(n_rows))
    assert all(len(set(rows)) == n_drawn for rows in table.rows.numpy().tolist())
    expected = n_latents * n_drawn / n_rows
    chi_square = sum((count - expected) ** 2 / expected for count in drawn.values())
    # 59 degrees of freedom, and drawing without replacement makes it smaller: mean 54, sd 10.
    assert 20 < chi_square < 95
    # The latents draw independently: two share about 6 * 6 / 60 rows.
    chosen = [set(rows) for rows in table.rows.numpy().tolist()]
    shared = [len(chosen[n] & chosen[n + 1]) for n in range(0, n_latents, 2)]
    assert abs(float(np.mean(shared)) - 0.6) < 0.1


def test_priorities_depend_on_all_that_they_should() -> None:
    latents, rows = torch.arange(50).repeat(40), torch.arange(40).repeat_interleave(50)
    given = priorities(latents, rows, 3)
    assert len(set(given.numpy().tolist())) == len(given) and bool((given >= 0).all())
    order = list(range(len(given)))
    random.Random(0).shuffle(order)
    assert torch.equal(priorities(latents[order], rows[order], 3), given[order])
    assert not bool((priorities(latents, rows, 4) == given).any())


def test_mixed_is_splitmix64() -> None:
    """The first outputs of SplitMix64 from seed 0, which mixes multiples of its increment."""
    increments = torch.tensor([1, 2, 3]) * -0x61C8864680B583EB
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [value % 2**64 for value in mixed(increments).numpy().tolist()] == known
