"""Whether the examples of a latent stand in like texts: a judge that is no language model's word.

For two examples of a latent and one other text, is the other example nearer than the other text?
The other text is a random one with the same token at its middle, so that what the token alone says
counts for neither; or any random one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

_CONTROLS = 8
"""Random texts for each example."""


@dataclass(frozen=True)
class Agreement:
    """The probability that an example is nearer to another than a random text is, of S latents.

    1/2 is what random examples have. NaN where there is nothing to compare.
    """

    beyond_token: Float[Tensor, "S"]
    """Against random texts with the other example's token."""
    in_all: Float[Tensor, "S"]
    """Against random texts with any token."""


class RandomTexts:
    """Draws rows at random, with a given token or with any."""

    def __init__(
        self, tokens_N: Int[Tensor, "N"], usable_N: Bool[Tensor, "N"], *, seed: int
    ) -> None:
        """From the rows that are usable."""
        rows_M = usable_N.nonzero()[:, 0]
        self._by_token = rows_M[tokens_N[rows_M].argsort(stable=True)]
        self._tokens = tokens_N[self._by_token].contiguous()
        self._generator = torch.Generator().manual_seed(seed)

    def with_tokens(self, tokens_P: Int[Tensor, "P"], each: int) -> Int[Tensor, "P C"]:
        """So many rows for each token, -1 where no row has it."""
        first_P = torch.searchsorted(self._tokens, tokens_P)
        count_P = torch.searchsorted(self._tokens, tokens_P, right=True) - first_P
        place_PC = (self._uniform(len(tokens_P), each) * count_P[:, None]).long()
        rows_PC = self._by_token[(first_P[:, None] + place_PC).clamp(max=len(self._tokens) - 1)]
        return rows_PC.masked_fill(count_P[:, None] == 0, -1)

    def any(self, n_rows: int, each: int) -> Int[Tensor, "P C"]:
        """So many rows for each of so many."""
        return self._by_token[(self._uniform(n_rows, each) * len(self._by_token)).long()]

    def _uniform(self, *shape: int) -> Float[Tensor, "..."]:
        # float64, which never rounds up to 1.
        return torch.rand(shape, generator=self._generator, dtype=torch.float64)


def agreement(
    examples: Sequence[Int[Tensor, "_"]],
    embeddings_NH: Float[Tensor, "N H"],
    tokens_N: Int[Tensor, "N"],
    documents_N: Int[Tensor, "N"],
    usable_N: Bool[Tensor, "N"],
    *,
    seed: int,
) -> Agreement:
    """How often a latent's examples are nearer to each other than random texts are to them.

    Over all pairs of different documents, by cosine, ties counting half; a random text is never of
    the document of the example that it is compared with.

    Args:
        examples: rows of S latents, each of another document.
        embeddings_NH: unit vectors of the texts around the rows.
        tokens_N, documents_N: of each row.
        usable_N: rows that may be drawn.
        seed: of the draws.
    """
    texts = RandomTexts(tokens_N, usable_N, seed=seed)
    beyond: list[float] = []
    in_all: list[float] = []
    for rows_P in examples:
        controls_of_token = texts.with_tokens(tokens_N[rows_P], _CONTROLS)
        given = (rows_P, embeddings_NH, documents_N)
        beyond.append(_auc(*given, controls_of_token))
        in_all.append(_auc(*given, texts.any(len(rows_P), _CONTROLS)))
    return Agreement(
        torch.tensor(beyond, dtype=torch.float64), torch.tensor(in_all, dtype=torch.float64)
    )


def _auc(
    rows_P: Int[Tensor, "P"],
    embeddings_NH: Float[Tensor, "N H"],
    documents_N: Int[Tensor, "N"],
    controls_PC: Int[Tensor, "P C"],
) -> float:
    """Over pairs i, j: how often i is nearer to j than to a control of j."""
    examples_PH = embeddings_NH[rows_P].float()
    controls_PCH = embeddings_NH[controls_PC.clamp(min=0)].float()
    near_PP = examples_PH @ examples_PH.T
    near_PPC = torch.einsum("ih,jch->ijc", examples_PH, controls_PCH)
    document_P = documents_N[rows_P]
    control_document_PC = documents_N[controls_PC.clamp(min=0)]
    counts_PPC = rearrange(document_P, "i -> i 1 1") != control_document_PC
    counts_PPC &= (controls_PC >= 0) & (control_document_PC != document_P[:, None])
    counts_PPC &= rearrange(document_P[:, None] != document_P, "i j -> i j 1")
    if not counts_PPC.any():
        return float("nan")
    difference_PPC = near_PP[..., None] - near_PPC
    nearer_PPC = (difference_PPC > 0).double() + 0.5 * (difference_PPC == 0).double()
    return float(nearer_PPC[counts_PPC].mean())
