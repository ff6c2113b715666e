"""Which tokens may be drawn: transformers' repetition penalty, temperature, top-k, top-p and min-p.

The classes and their order are those of transformers' `generate`. Each row is taken on its own, so
that neither its neighbors nor its padding matter.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.generation import logits_process

from .config import Sampling

_library: Any = logits_process  # its classes leave the types of their calls open


class TokenScores:
    """Scores from which a row's next token is taken, under one `Sampling`.

    Args:
        sampling: repetition penalty, temperature, top_k, top_p and min_p.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._processors: list[Any] = []
        if sampling.repetition_penalty != 1:
            penalty = float(sampling.repetition_penalty)
            self._processors.append(_library.RepetitionPenaltyLogitsProcessor(penalty))
        if sampling.temperature != 0:
            self._processors.append(_library.TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_k:
            self._processors.append(_library.TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._processors.append(_library.TopPLogitsWarper(sampling.top_p))
        if sampling.min_p:
            self._processors.append(_library.MinPLogitsWarper(sampling.min_p))

    def of_row(self, tokens: Sequence[int], logits_V: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        """The scores (float64) after `tokens`, prompt included and padding not; -inf may not be
        drawn. At least one is finite."""
        ids_1L = torch.tensor([list(tokens)])
        scores_1V = logits_V.double()[None]
        for process in self._processors:
            scores_1V = process(ids_1L, scores_1V)
        return scores_1V[0]
