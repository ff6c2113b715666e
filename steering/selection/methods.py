"""Methods of selection: how well a row suits a target, from what was read of it."""

import random as randomness
from collections.abc import Iterable
from typing import Protocol

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .read_rows import ReadRows


class Method(Protocol):
    """Gives each of some rows a score; the highest are selected."""

    def __call__(self, rows: ReadRows, target: ReadRows, seed: int) -> Iterable[float]:
        """A finite number for each row, which may depend on this row and the target alone.

        Args:
            rows: part of the rows to choose from, at least one, all readable.
            target: the target's examples, at least one, all readable.
            seed: for what is drawn at random.
        """
        ...


def jaccard(rows: ReadRows, target: ReadRows, seed: int) -> Float[Tensor, "N"]:
    """Generalized Jaccard similarity, 0 to 1, of mean code and mean over the target's examples
    (arXiv 2503.15573)."""
    del seed
    return rows.means.similarities(target.mean_code_F)


def mean_activation(rows: ReadRows, target: ReadRows, seed: int) -> Float[Tensor, "N"]:
    """Cosine, -1 to 1, of mean activation and mean over the target's examples; needs no
    autoencoder, so it says what the autoencoder adds."""
    del seed
    mean_1D = rearrange(target.mean_activations_ND.mean(dim=0), "d -> 1 d")
    return cosine_similarity(rows.mean_activations_ND, mean_1D)


def length(rows: ReadRows, target: ReadRows, seed: int) -> list[float]:
    """Minus the difference, in tokens, of the row's length and the mean of the target's."""
    del seed
    lengths = [row.tokens or 0 for row in target.rows]
    mean = sum(lengths) / len(lengths)
    return [-abs((row.tokens or 0) - mean) for row in rows.rows]


def random(rows: ReadRows, target: ReadRows, seed: int) -> list[float]:
    """A number from 0 to 1, drawn from the seed and the row's place."""
    del target
    return [randomness.Random(f"{seed} {number}").random() for number in rows.numbers]
