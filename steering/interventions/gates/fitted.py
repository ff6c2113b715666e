"""Gates with fitted vectors: `cosine`, `logistic` and `probe`."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ....kernels.numerics import row_norms
from .scores import ScoreGate, SoftGate


class Cosine(ScoreGate):
    """Open where the cosine to a condition direction `c` is above or below the threshold.

    Conditional activation steering (CAST, arXiv 2409.05907) asks the prompt once, at an earlier
    site: `scope` per_input. Its published form takes the tanh of the projection first, so that the
    score depends on the activations' scale; here the score is the cosine itself, with its sign.
    An activation of norm 0 has cosine 0.
    """

    needs: ClassVar = {"c": "D"}

    def score(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        c_D = self.tensor("c", h)
        norms = row_norms(h)
        return (h @ (c_D / row_norms(c_D))) / torch.where(norms > 0, norms, 1.0)


class Logistic(SoftGate):
    """A logistic regression on a few principal components (DSAS, arXiv 2512.03661).

    The log-odds of an activation are w . (basis (h - mean)) + b, with `mean` [D], `basis` [K, D],
    `w` [K] and `b`. The method applies edits by the probability at each token, so `soft` is true by
    default; otherwise where the log-odds are above or below the threshold.
    """

    needs: ClassVar = {"mean": "D", "basis": "K D", "w": "K", "b": ""}
    settings: ClassVar = {**SoftGate.settings, "soft": True}

    def score(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        components = (h - self.tensor("mean", h)) @ self.tensor("basis", h).T
        return components @ self.tensor("w", h) + self.tensor("b", h)


class Probe(SoftGate):
    """A linear probe: the score is h . w + b, with `w` [D] and, if there is one, `b`.

    Open where it is above or below the threshold; with `soft`, by its sigmoid.
    """

    needs: ClassVar = {"w": "D"}
    may_have: ClassVar = {"b": ""}

    def score(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        scores = h @ self.tensor("w", h)
        return scores + self.tensor("b", h) if "b" in self.tensors else scores
