"""Areas under the ROC curve against their definition, ties and zeros included."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsteer.kernels.codes import Codes
from sparsteer.steering.encoding import EncodedText
from sparsteer.steering.features.pooling import Pooled, pool_texts
from sparsteer.steering.features.ranking import AUROC, area, mean_over


def pooled_of(dense_NF: Tensor) -> Pooled:
    """The positive entries, in an order that means nothing."""
    texts, latents = dense_NF.nonzero(as_tuple=True)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(1))
    return Pooled(latents[order], texts[order], dense_NF[texts, latents][order])


def chance_of_order(values: Tensor, is_positive: Tensor) -> float:
    """P(positive > negative) + P(equal) / 2 over all pairs."""
    positive, negative = values[is_positive].double(), values[~is_positive].double()
    pairs = positive[:, None] - negative[None, :]
    return float((pairs > 0).double().mean() + (pairs == 0).double().mean() / 2)


@given(
    seed=st.integers(0, 10_000),
    n_texts=st.integers(2, 12),
    n_latents=st.integers(1, 5),
    n_values=st.integers(1, 4),
)
def test_areas_equal_the_definition(seed: int, n_texts: int, n_latents: int, n_values: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few different values, zero among them, make ties of every kind.
    dense = torch.randint(0, n_values + 1, (n_texts, n_latents), generator=generator).float() / 3
    is_positive = torch.zeros(n_texts, dtype=torch.bool)
    is_positive[torch.randperm(n_texts, generator=generator)[: int(1 + seed % (n_texts - 1))]] = (
        True
    )
    ours = AUROC(pooled_of(dense), n_texts, n_latents).areas(is_positive)
    for latent in range(n_latents):
        expected = chance_of_order(dense[:, latent], is_positive)
        assert float(ours[latent]) == pytest.approx(expected, abs=1e-12)


def test_areas_of_values_without_ties() -> None:
    dense = torch.rand(60, 4)
    labels = torch.rand(60) > 0.6
    expected = [chance_of_order(dense[:, latent], labels) for latent in range(4)]
    ours = AUROC(pooled_of(dense), 60, 4).areas(labels)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64))


def test_areas_under_swapped_labels_are_the_rest() -> None:
    dense = torch.randint(0, 4, (30, 6)).float()
    labels = torch.rand(30) > 0.5
    auroc = AUROC(pooled_of(dense), 30, 6)
    torch.testing.assert_close(auroc.areas(labels) + auroc.areas(~labels), torch.ones(6).double())


def test_a_latent_that_never_fires_tells_nothing() -> None:
    dense = torch.rand(8, 3)
    dense[:, 1] = 0
    labels = torch.arange(8) < 3
    assert float(AUROC(pooled_of(dense), 8, 3).areas(labels)[1]) == 0.5
    empty = Pooled(
        torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0)
    )
    assert AUROC(empty, 8, 3).areas(labels).numpy().tolist() == [0.5] * 3


def test_one_side_alone_has_no_area() -> None:
    auroc = AUROC(pooled_of(torch.rand(4, 2)), 4, 2)
    for labels in (torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)):
        with pytest.raises(ValueError, match="one positive and one negative"):
            auroc.areas(labels)


def test_area_of_one_number_a_text() -> None:
    values = torch.tensor([3.0, 1.0, 2.0, 2.0])
    assert area(values, torch.tensor([True, False, True, False])) == pytest.approx(0.875)


def test_means_count_zeros() -> None:
    dense = torch.rand(9, 5) * (torch.rand(9, 5) > 0.5)
    chosen = torch.tensor([True, False, True, True, False, False, True, False, True])
    ours = mean_over(pooled_of(dense), chosen, 5)
    torch.testing.assert_close(ours, dense[chosen].double().mean(0))


def encoded(dense_CF: Tensor, *, n_tokens: int) -> EncodedText:
    """A text whose content tokens have the dense codes, zeros in the slots' order as well."""
    values, indices = dense_CF.topk(dense_CF.shape[1])
    indices = indices.masked_fill(values == 0, 0)
    n_content = len(dense_CF)
    kept = torch.cat([torch.zeros(1, dtype=torch.bool), torch.ones(n_content, dtype=torch.bool)])
    return EncodedText(
        torch.arange(n_content + 1), kept, Codes(indices, values), n_tokens, torch.zeros(4)
    )


def test_pooling_equals_dense_pooling() -> None:
    n_latents, lengths = 7, [4, 1, 0, 9, 3] * 60
    texts = [torch.rand(n, n_latents) * (torch.rand(n, n_latents) > 0.6) for n in lengths]
    given = pool_texts(
        (encoded(text, n_tokens=len(text) + 1 + number % 2) for number, text in enumerate(texts)),
        n_latents,
    )
    counted = [text for text in texts if len(text)]
    assert given.lengths.numpy().tolist() == [len(text) for text in counted]
    assert given.without_content == 60 and given.truncated == 150
    for pooled, expected in (
        (given.mean, torch.stack([text.mean(0) for text in counted])),
        (given.largest, torch.stack([text.amax(0) for text in counted])),
    ):
        dense = torch.zeros(len(counted), n_latents)
        dense[pooled.texts, pooled.latents] = pooled.values
        torch.testing.assert_close(dense, expected)
        assert len(pooled.values) == int((expected > 0).sum())


def test_pooling_nothing() -> None:
    given = pool_texts([encoded(torch.zeros(0, 3), n_tokens=1)], 3)
    assert given.without_content == 1 and not len(given.lengths) and not len(given.mean.values)
