"""Collecting a matrix whose rows lie on several processes, and handing its rows out."""

from collections.abc import Sequence

import torch.distributed as torch_dist
from torch import Tensor


def gather_rows(
    own: Tensor,
    whole: Tensor | None,
    parts: Sequence[slice],
    group: torch_dist.ProcessGroup | None = None,
) -> None:
    """Write every rank's rows to a matrix of the group's first rank.

    They come one rank after the other, so that beside its own rows that rank's device holds those
    of one other at a time, also where the whole matrix would not fit there.

    Args:
        own: this rank's rows, those of its slice.
        whole: [F, ...] on any device; on the first rank alone, None on the others.
        parts: the rows of each rank; may be empty.
        group: the ranks, by default all; every one calls this.
    """
    rank = torch_dist.get_rank(group)
    if whole is None:
        if len(own):
            torch_dist.send(own.contiguous(), group=group, group_dst=0)
        return
    whole[parts[rank]] = own.to(whole.device)
    for source, rows in enumerate(parts):
        if source != rank and rows.start < rows.stop:
            received = own.new_empty(rows.stop - rows.start, *whole.shape[1:])
            torch_dist.recv(received, group=group, group_src=source)
            whole[rows] = received.to(whole.device)


def scatter_rows(
    own: Tensor,
    whole: Tensor | None,
    parts: Sequence[slice],
    group: torch_dist.ProcessGroup | None = None,
) -> None:
    """Write every rank's rows of a matrix that the group's first rank has to that rank's tensor.

    They go one rank after the other, as in `gather_rows`.

    Args:
        own: [n, ...] where this rank's rows go.
        whole: [F, ...] on any device; on the first rank alone, None on the others.
        parts: the rows of each rank; may be empty.
        group: the ranks, by default all; every one calls this.
    """
    rank = torch_dist.get_rank(group)
    if whole is None:
        if len(own):
            torch_dist.recv(own, group=group, group_src=0)
        return
    own.copy_(whole[parts[rank]])
    for target, rows in enumerate(parts):
        if target != rank and rows.start < rows.stop:
            sent = whole[rows].to(own.device, own.dtype).contiguous()
            torch_dist.send(sent, group=group, group_dst=target)
