"""What a training step asks of a GPU stays within a budget, counted without one."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import dispatch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Launches and waits of a step without dead latents, and with a tenth of them dead.
BUDGETS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "topk, float32": ((45, 0), (78, 0)),
    "topk, bfloat16": ((53, 0), (88, 0)),
    "nested topk, float32": ((122, 0), (155, 0)),
    "nested topk, bfloat16": ((137, 0), (172, 0)),
    "batch_topk, float32": ((80, 0), (113, 0)),
    "batch_topk, bfloat16": ((88, 0), (123, 0)),
    "jumprelu, float32": ((105, 0), (138, 0)),
    "jumprelu, bfloat16": ((116, 0), (151, 0)),
    "top_afa, float32": ((63, 0), (96, 0)),
    "top_afa, bfloat16": ((72, 0), (107, 0)),
}

pytestmark = pytest.mark.skipif(
    dispatch.triton_version() is None, reason="Triton is not installed here"
)


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # pyright: ignore[reportUnknownMemberType] - untyped


@pytest.mark.parametrize("dead", [0, 1], ids=["none dead", "a tenth dead"])
@pytest.mark.parametrize("kind", BUDGETS)
@pytest.mark.slow_except("topk, bfloat16-none dead", "topk, bfloat16-a tenth dead")
def test_a_step_stays_within_its_budget(kind: str, dead: int) -> None:
    step_counts: Any = import_module("step_counts")
    count = step_counts.count_step(f"{kind}, {('none dead', 'a tenth dead')[dead]}")
    launches, waits = BUDGETS[kind][dead]
    assert count.launches <= launches, count.by_kernel
    assert count.waits <= waits, count.by_wait


def test_every_kind_of_step_has_a_budget() -> None:
    kinds: list[str] = import_module("step_counts").kinds()
    assert {kind.rpartition(", ")[0] for kind in kinds} == BUDGETS.keys()


CALLS: dict[str, tuple[Callable[[Tensor], object], int, int]] = {
    "a view": (lambda x: x.detach().T[3:].unsqueeze(0), 0, 0),
    "one kernel": (lambda x: x + 1, 1, 0),
    "a sort": (lambda x: x.sort(-1), 8, 0),
    "a number": (lambda x: float(x.sum()), 1, 1),
    "a choice of the host": (lambda x: bool((x > 0).all()), 2, 1),
    "positions": (lambda x: (x > 0).nonzero(), 5, 1),
    "a mask": (lambda x: x[x > 0], 2, 1),
    "numbers of the host": (lambda x: x.new_tensor([1.0, 2.0]), 1, 1),
    "a copy to the host": (lambda x: x.cpu(), 1, 1),
}


@pytest.mark.parametrize(("call", "launches", "waits"), CALLS.values(), ids=CALLS.keys())
def test_what_is_counted(call: Callable[[Tensor], object], launches: int, waits: int) -> None:
    counting: Any = import_module("step_counting")
    x = torch.empty(6, 7, device="meta")
    with counting.on_meta(counting.Guesses(rows=6, latents=7, k=2, n_dead=1)) as restart:
        call(x)
        count = restart()
    assert (count.launches, count.waits) == (launches, waits), count
    assert (count.bytes > 0) == (launches > 0)
