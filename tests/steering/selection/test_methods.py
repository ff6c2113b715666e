"""Each method of selection by its definition, on rows whose figures are given."""

import random

import pytest
import torch

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.registries import SELECTION_METHODS
from sparsteer.steering.selection.embedding import Mean, SparseRows
from sparsteer.steering.selection.read_rows import ReadRows, RowScore

N_LATENTS = 12


def read(rows: list[tuple[dict[int, float], list[float], int]], first: int = 0) -> ReadRows:
    """Rows of (activations of latents, mean activation, tokens); one of no tokens is empty."""
    codes = [
        Mean(torch.tensor(list(code), dtype=torch.int64), torch.tensor(list(code.values())))
        for code, _, _ in rows
    ]
    return ReadRows(
        SparseRows.stack(codes, N_LATENTS),
        torch.tensor([activation for _, activation, _ in rows]),
        [RowScore(None, "ok" if tokens else "empty", tokens) for _, _, tokens in rows],
        list(range(first, first + len(rows))),
    )


TARGET = read([({1: 2.0, 4: 1.0}, [3.0, 0.0], 10), ({1: 4.0}, [0.0, 4.0], 13), ({}, [9.0, 9.0], 0)])
POOL = read(
    [
        ({1: 3.0, 4: 0.5}, [6.0, 8.0], 12),
        ({}, [1.0, 1.0], 0),
        ({2: 1.0}, [-4.0, 3.0], 20),
        ({1: 1.0}, [4.0, -3.0], 11),
    ]
)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("jaccard", [1.0, 0.0, 1 / 3.5]),
        ("mean_activation", [1.0, 0.0, 0.0]),
        ("length", [-0.5, -8.5, -0.5]),
    ],
)
def test_scores_are_those_of_the_definition(method: str, expected: list[float]):
    first, empty, *rest = [row.score for row in POOL.scored_against(TARGET, method)]
    assert empty is None
    assert [first, *rest] == pytest.approx(expected, abs=1e-6)


def test_random_scores_depend_on_the_seed_and_the_place_alone():
    rows: list[tuple[dict[int, float], list[float], int]] = [({1: 1.0}, [1.0, 2.0], 5)] * 40
    whole = [row.score for row in read(rows).scored_against(TARGET, "random", seed=3)]
    end = [row.score for row in read(rows[:10], first=30).scored_against(TARGET, "random", seed=3)]
    other = [row.score for row in read(rows).scored_against(TARGET, "random", seed=4)]
    assert whole[30:] == end
    assert len({*whole, *other}) == 80
    assert all(score is not None and 0 <= score < 1 for score in whole)


@pytest.mark.parametrize("scores", [[1.0, 2.0], [1.0, float("nan"), 2.0]])
def test_what_is_no_score_is_refused(scores: list[float], monkeypatch: pytest.MonkeyPatch):
    def toy(rows: ReadRows, target: ReadRows, seed: int) -> list[float]:
        return scores

    monkeypatch.setattr(SELECTION_METHODS, "get", {"toy": toy}.__getitem__)
    with pytest.raises(InputError, match="method 'toy' gave"):
        POOL.scored_against(TARGET, "toy")


def test_the_usual_method_is_jaccard():
    assert POOL.scored_against(TARGET) == POOL.scored_against(TARGET, "jaccard", seed=7)
    assert random.Random("3 0").random() == pytest.approx(
        POOL.scored_against(TARGET, "random", seed=3)[0].score, abs=1e-6
    )
