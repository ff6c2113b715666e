"""Slots sorted by latent: those of a stable sort, in whatever order the programs ran."""

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import segment_build
from sparsteer.kernels.segment_build import Segments, count_slots, sort_slots

Slots = tuple[Tensor, Tensor, Tensor]

SIZES = [(1, 1, 1), (7, 5, 3), (40, 9, 6), (30, 300, 4)]
"""Rows, latents, slots; none a multiple of a block."""


def random_slots(size: tuple[int, int, int], dtype: torch.dtype, device: str) -> Slots:
    """Indices with a latent that every row holds, and two coefficients, some of them 0."""
    n_rows, n_latents, n_slots = size
    indices = torch.randint(0, n_latents, (n_rows, n_slots))
    indices[:, 0] = n_latents // 2
    coefficients = torch.randn(2, n_rows, n_slots).masked_fill_(
        torch.rand(n_rows, n_slots) < 0.3, 0
    )
    coefficients[1].masked_fill_(torch.rand(n_rows, n_slots) < 0.3, 0)
    coefficients[0, -1, -1] = torch.nan  # which is used, and must stay visible
    first, second = coefficients.to(device, dtype).unbind()
    return indices.to(device), first, second


def require_sorted(segments: Segments, slots: Slots, n_latents: int, chunk: int) -> None:
    indices, first, second = (tensor.flatten().cpu() for tensor in slots)
    used = ((first != 0) | (second != 0)).nonzero()[:, 0]
    order = used[indices[used].sort(stable=True).indices]
    counts = torch.bincount(indices[used], minlength=n_latents)
    n_items = counts.add(chunk - 1).div(chunk, rounding_mode="floor").clamp(min=1)
    n_splits = n_items.masked_fill(n_items == 1, 0)

    def starts(numbers: Tensor) -> Tensor:
        return torch.cat([torch.zeros(1, dtype=torch.int64), numbers.cumsum(0)]).int()

    assert torch.equal(segments.offsets.cpu(), starts(counts))
    assert torch.equal(segments.items.cpu(), starts(n_items))
    assert torch.equal(segments.splits.cpu(), starts(n_splits))
    assert segments.splits[-1] <= segments.n_partial
    every_latent = torch.arange(n_latents).repeat_interleave(n_items).int()
    assert torch.equal(segments.latents.cpu()[: len(every_latent)], every_latent)
    rows = order.div(slots[0].shape[1], rounding_mode="floor").int()
    assert torch.equal(segments.rows.cpu()[: len(order)], rows)
    for got, want in ((segments.coefficients, first), (segments.coefficients2, second)):
        torch.testing.assert_close(
            got.cpu()[: len(order)], want[order], rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("size", SIZES)
def test_slots_are_sorted_by_latent_and_row(
    size: tuple[int, int, int], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_build, "_SLOTS_AT_ONCE", 64)
    monkeypatch.setattr(segment_build, "_LATENTS_AT_ONCE", 128)
    monkeypatch.setattr(segment_build, "_RANKED_AT_ONCE", 4)
    monkeypatch.setattr(segment_build, "_SEARCHED_AT_ONCE", 16)
    n_latents = size[1]
    slots = random_slots(size, torch.bfloat16, device)
    segments = sort_slots(*slots, *count_slots(*slots, n_latents), 8)
    require_sorted(segments, slots, n_latents, 8)


def test_the_order_in_which_slots_were_counted_does_not_matter(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_build, "_LATENTS_AT_ONCE", 4)  # several blocks of latents
    monkeypatch.setattr(segment_build, "_RANKED_AT_ONCE", 16)
    slots = random_slots((40, 13, 5), torch.float32, device)
    counts, arrivals = count_slots(*slots, 13)
    flat = slots[0].flatten()
    shuffled = arrivals.clone()
    for latent in range(13):
        own = ((flat == latent) & (arrivals >= 0)).nonzero()[:, 0]
        assert sorted(arrivals[own].tolist()) == list(range(int(counts[latent])))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - untyped builtin
        shuffled[own] = arrivals[own[torch.randperm(len(own))]]
    assert not torch.equal(shuffled, arrivals)
    require_sorted(sort_slots(*slots, counts, shuffled, 8), slots, 13, 8)


def test_no_slot_and_no_row_leave_empty_segments(device: str) -> None:
    for n_rows in (0, 3):
        indices = torch.zeros(n_rows, 2, dtype=torch.int64, device=device)
        zeros = torch.zeros(n_rows, 2, device=device)
        segments = sort_slots(indices, zeros, zeros, *count_slots(indices, zeros, zeros, 5), 8)
        require_sorted(segments, (indices, zeros, zeros), 5, 8)


@pytest.mark.parametrize("last_row", [1024, 300])
def test_items_of_a_frequent_latent_share_its_slots(last_row: int, device: str) -> None:
    """At production sizes: one latent in every row up to last_row, wherever they came."""
    indices = torch.randint(1, 40, (1024, 3))
    indices[:last_row, 1] = 0
    coefficients = torch.randn(2, 1024, 3).to(device)
    indices = indices.to(device)
    slots = indices, coefficients[0], coefficients[1]
    counts, arrivals = count_slots(*slots, 40)
    own = (indices.flatten() == 0).nonzero()[:, 0]
    arrivals[own] = arrivals[own[torch.randperm(len(own), device=device)]]
    assert counts[0] == last_row
    require_sorted(sort_slots(*slots, counts, arrivals, 256), slots, 40, 256)


def test_slots_between_two_ranks_are_found_wherever_they_crowd(device: str) -> None:
    """Items whose slots are neighbors, far apart, the first ones and the last ones of the batch."""
    n_rows, width = 24, 3
    for rows in ([0, 1, 2], [21, 22, 23], [0, 1, 22, 23], list(range(0, 24, 5))):
        indices = torch.full((n_rows, width), 2)
        indices[rows] = 1  # several slots of a row
        ones = torch.ones(n_rows, width, device=device)
        slots = indices.to(device), ones, ones
        require_sorted(sort_slots(*slots, *count_slots(*slots, 4), 8), slots, 4, 8)
