"""Duplicates of better features: found by direction and by firing, exactly."""

import pytest
import torch

from sparsteer.kernels.codes import Codes
from sparsteer.steering.encoding import EncodedText
from sparsteer.steering.features.duplicates import FiringTokens, without_duplicates

ORDER = torch.tensor([3, 0, 4, 1, 2])


def rows() -> torch.Tensor:
    """Latent 4 is latent 0 twice as long; 1 is at a cosine of 0.8 with 3; 2 is opposite to 3."""
    return torch.tensor([[1.0, 0, 0], [0, 0.8, 0.6], [0, -1, 0], [0, 1, 0], [2, 0, 0]])


def text_of(dense: torch.Tensor) -> EncodedText:
    indices = torch.arange(dense.shape[1]).expand(dense.shape)
    used = dense > 0
    codes = Codes(torch.where(used, indices, 0), torch.where(used, dense, 0.0))
    n = len(dense)
    return EncodedText(torch.zeros(n, dtype=torch.int64), torch.ones(n) > 0, codes, n)


def test_directions() -> None:
    kept, dropped = without_duplicates(ORDER, 5, rows(), max_cosine=0.9)
    assert kept == [3, 0, 1, 2]
    assert [(one.feature, one.of, one.by) for one in dropped] == [(4, 0, "cosine")]
    assert dropped[0].value == pytest.approx(1)
    kept, dropped = without_duplicates(ORDER, 5, rows(), max_cosine=0.7)
    assert kept == [3, 0, 2] and [one.feature for one in dropped] == [4, 1]
    # A ranking is followed no further than it is needed.
    assert without_duplicates(ORDER, 2, rows(), max_cosine=0.9) == ([3, 0], [])
    # Equal rows are not more than equal.
    assert without_duplicates(ORDER, 5, rows(), max_cosine=1.0)[1] == []
    assert without_duplicates(ORDER, 3, rows()) == ([3, 0, 4], [])
    assert without_duplicates(ORDER[:0], 3, rows(), max_cosine=0.5) == ([], [])


def test_firing() -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(40, 5, generator=generator) * (torch.rand(40, 5, generator=generator) < 0.4)
    dense[:, 4] = dense[:, 0] * 3  # fires where 0 does
    dense[:, 2] = 0  # never fires
    firing = FiringTokens()
    texts = [text_of(dense[:13]), text_of(dense[13:13]), text_of(dense[13:])]
    assert [len(text.tokens) for text in firing.noted(texts)] == [13, 0, 27]
    fires = dense > 0
    for one in range(5):
        assert torch.equal(firing.of(one).long(), fires[:, one].nonzero()[:, 0])
        both = (fires[:, [one]] & fires).sum(0).double()
        either = (fires[:, [one]] | fires).sum(0).clamp(min=1)
        assert torch.allclose(firing.jaccard(one, [0, 1, 2, 3, 4]), both / either)
    kept, dropped = without_duplicates(ORDER, 5, rows(), firing=firing, max_cofiring=0.9)
    assert kept == [3, 0, 1, 2]
    assert [(one.feature, one.of, one.by, one.value) for one in dropped] == [(4, 0, "cofiring", 1)]
    both_ways = without_duplicates(
        ORDER, 5, rows(), max_cosine=0.9, firing=firing, max_cofiring=0.9
    )
    assert [one.by for one in both_ways[1]] == ["cosine"]
