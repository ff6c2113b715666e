"""The next token of each row of a batch: penalty, temperature, top-k, top-p, min-p, and the draw.

Rows have settings and random numbers of their own, and all are computed together, on the device of
the logits: only the chosen ids need leave it. The steps and their order are those of transformers'
`generate`, in float64; what one row is given depends on no other.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .config import Sampling

_SORTED_FIRST = 4096
"""Likeliest tokens among which top_p is looked for before all are sorted."""


class RowSampler:
    """Chooses the next token of every row of a batch.

    Each row draws from a generator of its own, which its prompt and seed begin, whatever else is in
    the batch. The noise is the same for a base and a steered text, so they differ only where the
    steering moves the logits enough.
    """

    def __init__(
        self,
        samplings: Sequence[Sampling],
        prompts: Sequence[Sequence[int]],
        device: torch.device | str = "cpu",
    ) -> None:
        """Take settings and prompt of each row.

        Args:
            samplings: temperature, top_k, top_p, min_p, repetition_penalty and seed of each row.
            prompts: token ids of each row; what was seen counts for the penalty.
            device: where the logits are.
        """
        self._samplings = list(samplings)
        self._device = torch.device(device)
        self._noise = [
            noise_of(sampling.seed, prompt, self._device)
            for sampling, prompt in zip(samplings, prompts, strict=True)
        ]
        self._seen: list[Tensor | None] = [  # The ids, later [V] which of all; None where unused.
            torch.tensor(list(prompt)) if sampling.repetition_penalty != 1 else None
            for sampling, prompt in zip(samplings, prompts, strict=True)
        ]
        self._settings = _Settings(self._samplings, self._device)

    def join(self, other: "RowSampler") -> None:
        """Put the other's rows behind these."""
        self._samplings += other._samplings
        self._noise += other._noise
        self._seen += other._seen
        self._settings = _Settings(self._samplings, self._device)

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these rows, in this order."""
        self._samplings = [self._samplings[row] for row in rows]
        self._noise = [self._noise[row] for row in rows]
        self._seen = [self._seen[row] for row in rows]
        self._settings = _Settings(self._samplings, self._device)

    def choose(self, logits_BV: Float[Tensor, "B V"]) -> Int[Tensor, "B"]:
        """The token of the highest score, or a draw: argmax of the scores + Gumbel noise.

        What is chosen counts as seen from then on.
        """
        drawn = self._settings.drawn
        if not drawn and not self._settings.penalized:
            return logits_BV.argmax(dim=-1)
        scores_BV = self.scores(logits_BV)
        if drawn:
            noise_RV = scores_BV.new_empty(len(drawn), scores_BV.shape[1])
            for noise_V, row in zip(noise_RV, drawn, strict=True):
                noise_V.exponential_(generator=self._noise[row])
            noise_RV.log_()
            scores_BV[self._settings.index(drawn)] -= noise_RV
        chosen_B = scores_BV.argmax(dim=-1)
        for row in self._settings.penalized:
            self._seen_in_row(row, scores_BV.shape[1]).index_fill_(0, chosen_B[row : row + 1], True)
        return chosen_B

    def scores(self, logits_BV: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Scores (float64) from which the next tokens are taken; -inf may not be drawn. At least
        one of a row is finite."""
        settings, scores_BV = self._settings, logits_BV.double()
        if scores_BV is logits_BV:
            scores_BV = scores_BV.clone()
        if rows := settings.penalized:
            chosen = settings.index(rows)
            scores_RV = scores_BV[chosen]
            n_vocab = scores_BV.shape[1]
            seen_RV = torch.stack([self._seen_in_row(row, n_vocab) for row in rows])
            penalty_R1 = settings.column("repetition_penalty", rows)
            less_RV = torch.where(scores_RV < 0, scores_RV * penalty_R1, scores_RV / penalty_R1)
            scores_BV[chosen] = torch.where(seen_RV, less_RV, scores_RV)
        if rows := settings.drawn:
            scores_BV[settings.index(rows)] /= settings.column("temperature", rows)
        if rows := settings.with_top_k:
            k_R1 = settings.column("top_k", rows).long().clamp(max=scores_BV.shape[1])
            chosen = settings.index(rows)
            scores_RV = scores_BV[chosen]
            best_RK = scores_RV.topk(int(settings.largest_k(scores_BV.shape[1]))).values
            scores_BV[chosen] = _without(scores_RV, scores_RV < best_RK.gather(1, k_R1 - 1))
        if rows := settings.with_top_p:
            chosen = settings.index(rows)
            scores_BV[chosen] = _top_p(scores_BV[chosen], settings.column("top_p", rows))
        if rows := settings.with_min_p:
            chosen = settings.index(rows)
            scores_RV = scores_BV[chosen]
            p_RV = scores_RV.softmax(dim=-1)
            least_R1 = settings.column("min_p", rows) * p_RV.amax(dim=-1, keepdim=True)
            scores_BV[chosen] = _without(scores_RV, p_RV < least_R1)
        return scores_BV

    def _seen_in_row(self, row: int, n_vocab: int) -> Bool[Tensor, "V"]:
        seen = self._seen[row]
        assert seen is not None
        if seen.dtype != torch.bool:
            seen_V = torch.zeros(n_vocab, dtype=torch.bool)
            # A model may have an embedding for more tokens than it can choose.
            seen_V[seen[seen < n_vocab]] = True
            self._seen[row] = seen = seen_V.to(self._device)
        return seen


class _Settings:
    """The settings of the rows as columns, and which rows need which step."""

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        self._samplings, self._device = samplings, device
        self._columns: dict[str, Float[Tensor, "R 1"]] = {}
        self._indices: dict[tuple[int, ...], Tensor] = {}
        rows = list(enumerate(samplings))
        self.drawn = [row for row, each in rows if each.temperature != 0]
        self.penalized = [row for row, each in rows if each.repetition_penalty != 1]
        self.with_top_k = [row for row, each in rows if each.top_k]
        self.with_top_p = [row for row, each in rows if each.top_p < 1]
        self.with_min_p = [row for row, each in rows if each.min_p]

    def column(self, name: str, rows: Sequence[int]) -> Float[Tensor, "R 1"]:
        if name not in self._columns:
            # No vocabulary has so many tokens, and top_k may be more than a number on a device.
            values = [float(min(getattr(self._samplings[row], name), 2**31)) for row in rows]
            column_R = torch.tensor(values, dtype=torch.float64, device=self._device)
            self._columns[name] = rearrange(column_R, "r -> r 1")
        return self._columns[name]

    def index(self, rows: Sequence[int]) -> slice | Tensor:
        """What takes these rows of a batch; the device is told of their numbers once, since the
        host waits for each copy of a list."""
        if len(rows) == len(self._samplings):
            return slice(None)
        if tuple(rows) not in self._indices:
            self._indices[tuple(rows)] = torch.tensor(list(rows), device=self._device)
        return self._indices[tuple(rows)]

    def largest_k(self, n_vocab: int) -> int:
        return min(n_vocab, max(self._samplings[row].top_k for row in self.with_top_k))


def _without(scores_RV: Float[Tensor, "R V"], out_RV: Bool[Tensor, "R V"]) -> Tensor:
    return scores_RV.masked_fill(out_RV, -math.inf)


def _top_p(scores_RV: Float[Tensor, "R V"], top_p_R1: Float[Tensor, "R 1"]) -> Float[Tensor, "R V"]:
    """Only the likeliest tokens, and those as likely as the last of them, whose probabilities
    together reach top_p.

    On a CPU few tokens are sorted first: all of them take as long there as the model's own pass. A
    GPU sorts faster than the host could ask it whether few were enough.
    """
    n_vocab = scores_RV.shape[1]
    total_R1 = scores_RV.logsumexp(dim=-1, keepdim=True)
    n_sorted = min(_SORTED_FIRST, n_vocab) if scores_RV.device.type == "cpu" else n_vocab
    best_RK, kept_RK = _likeliest(scores_RV, total_R1, top_p_R1, n_sorted)
    if n_sorted < n_vocab and bool(kept_RK[:, -1].any()):
        best_RK, kept_RK = _likeliest(scores_RV, total_R1, top_p_R1, n_vocab)
    least_R1 = best_RK.masked_fill(~kept_RK, math.inf).amin(dim=-1, keepdim=True)
    return _without(scores_RV, scores_RV < least_R1)


def _likeliest(
    scores_RV: Float[Tensor, "R V"],
    total_R1: Float[Tensor, "R 1"],
    top_p_R1: Float[Tensor, "R 1"],
    k: int,
) -> tuple[Float[Tensor, "R k"], Bool[Tensor, "R k"]]:
    """The k highest scores, falling, and which are kept: the first, and those above which there is
    less than top_p."""
    best_RK = scores_RV.topk(k, dim=-1).values
    p_RK = (best_RK - total_R1).exp()
    kept_RK = p_RK.cumsum(dim=-1) - p_RK < top_p_R1
    kept_RK[:, 0] = True
    return best_RK, kept_RK


def noise_of(
    seed: int, prompt: Sequence[int], device: torch.device | str = "cpu"
) -> torch.Generator:
    """A row's own random numbers, from the seed and its prompt alone; other devices have others."""
    digest = hashlib.sha256(f"{seed} {list(prompt)}".encode()).digest()
    generator = torch.Generator(device)
    return generator.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
