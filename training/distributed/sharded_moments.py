"""Adam's moments spread over the processes that share a batch: ZeRO stage 1 (arXiv 1910.02054).

All ranks have all weights, but each has the moments of a part of the rows of every matrix, and
makes the step for them alone; then each gathers the rows that the others have updated. Of n ranks
each thus holds and goes through 1/n of the moments. What travels stays the same where gradients are
whole matrices: a reduce-scatter of gradients and an all-gather of weights are what an all-reduce
consists of. Vectors, such as biases, are small: all ranks have their moments.

On GPUs a rank gets the sums of its own rows' gradients alone, and the norm of all is found from the
ranks' parts. On CPUs gradients are all-reduced as without this, because gloo's reduce-scatter is
no cheaper; so weights and moments have the very bits that they have without it.
"""

from collections.abc import Callable
from math import gcd
from typing import Any

import torch
import torch.distributed as torch_dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...kernels.numerics import ceil_div
from ...kernels.optimizer import rows_in_cache
from .data_parallel import DataParallel
from .gathering import gather_rows, scatter_rows

_VECTOR = 16
"""Values that a CPU takes at once; of fewer at the end of a block the last bits can differ."""

# Named reduce_scatter_tensor and all_gather_into_tensor before torch 2.13, which warns of these.
_dist: Any = torch_dist
_reduce_scatter: Callable[..., Any] = getattr(
    _dist, "reduce_scatter_single", _dist.reduce_scatter_tensor
)
_all_gather: Callable[..., Any] = getattr(_dist, "all_gather_single", _dist.all_gather_into_tensor)


class ShardedMoments(DataParallel):
    """One of several ranks that have all weights, and the moments of a part of their rows."""

    def __init__(
        self,
        *,
        reduce_scatter: bool,
        host_group: torch_dist.ProcessGroup | None = None,
    ) -> None:
        """All ranks share the batch.

        Args:
            reduce_scatter: sum on each rank the gradients of its own rows alone, as suits GPUs, not
                all on every rank.
            host_group: as for `DataParallel`.
        """
        super().__init__(host_group=host_group)
        self._reduce_scatter = reduce_scatter

    def moment_rows(self, weights: Float[Tensor, "..."]) -> slice | None:
        return None if weights.ndim < 2 else self._rows(weights, self.data_rank)

    def all_gather_rows(self, weights: Float[Tensor, "..."]) -> None:
        if weights.ndim < 2:
            return
        own = weights[self._rows(weights, self.data_rank)]
        n_rows, n_each = len(weights), rows_of_rank(weights.shape, self.data_size)
        if n_rows == self.data_size * n_each:
            _all_gather(weights, own)
            return
        padded = weights.new_empty(self.data_size * n_each, *weights.shape[1:])
        _all_gather(padded, _with_rows(own, n_each))
        weights.copy_(padded[:n_rows])

    def gradient_norm(self, gradients: dict[str, Tensor]) -> Float[Tensor, ""]:
        if not self._reduce_scatter:
            return super().gradient_norm(gradients)
        # Each matrix counts by the ranks' parts; a vector, which is the same on all, once.
        counted = {
            name: gradient if (rows := self.moment_rows(gradient)) is None else gradient[rows]
            for name, gradient in gradients.items()
            if gradient.ndim > 1 or self.data_rank == 0
        }
        return self._all_reduce_sum(super().gradient_norm(counted).square()).sqrt()

    def gather_moments(self, module: nn.Module, moments: dict[str, Tensor]) -> dict[str, Tensor]:
        whole: dict[str, Tensor] = {}
        for name, own in moments.items():
            weights = module.get_parameter(name.partition(".")[2])
            if weights.ndim < 2:
                continue
            parts = [self._rows(weights, rank) for rank in range(self.data_size)]
            full = torch.empty(weights.shape, dtype=own.dtype) if self.is_main else None
            gather_rows(own, full, parts)
            if full is not None:
                whole[name] = full
        return whole

    def scatter_moments(
        self, module: nn.Module, moments: dict[str, Tensor], whole: dict[str, Tensor]
    ) -> None:
        for name, own in moments.items():
            weights = module.get_parameter(name.partition(".")[2])
            if weights.ndim < 2:
                continue
            parts = [self._rows(weights, rank) for rank in range(self.data_size)]
            scatter_rows(own, whole[name] if self.is_main else None, parts)

    def _few_rows(self, touched_F: Bool[Tensor, "F"]) -> bool:
        return not self._reduce_scatter and super()._few_rows(touched_F)

    def _sum_matrix(self, gradient: Tensor) -> None:
        if not self._reduce_scatter:
            super()._sum_matrix(gradient)
            return
        rows, n_each = (
            self._rows(gradient, self.data_rank),
            rows_of_rank(gradient.shape, self.data_size),
        )
        total = gradient.new_empty(n_each, *gradient.shape[1:])
        _reduce_scatter(total, _with_rows(gradient, self.data_size * n_each))
        own = gradient[rows]
        own.copy_(total[: len(own)])

    def _rows(self, weights: Tensor, rank: int) -> slice:
        n_rows, n_each = len(weights), rows_of_rank(weights.shape, self.data_size)
        return slice(min(rank * n_each, n_rows), min((rank + 1) * n_each, n_rows))


def rows_of_rank(shape: torch.Size, size: int) -> int:
    """How many rows of a matrix each of `size` ranks has; the last ranks may have fewer, or none.

    On a CPU the last values of a block that Adam takes at once can round differently if they are no
    whole vector. So a part ends where a whole vector does, or a block.
    """
    n_rows, n_columns = shape[0], shape[1:].numel()
    together = _VECTOR // gcd(_VECTOR, n_columns)
    if together > 1 and n_rows > rows_in_cache(n_columns):
        together = rows_in_cache(n_columns)
    return together * ceil_div(ceil_div(n_rows, size), together)


def _with_rows(rows: Tensor, n_rows: int) -> Tensor:
    """The rows, contiguous, followed by zeros up to so many rows."""
    missing = n_rows - len(rows)
    if not missing:
        return rows.contiguous()
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
