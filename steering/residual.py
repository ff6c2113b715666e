"""How large a push is beside what it is added to: the norm of the activations at a site."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..kernels.numerics import row_norms
from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.errors import InputError
from .interventions.edits.base import edit_rule
from .interventions.intervention import Intervention
from .interventions.rules import Context
from .loading import LoadedRun

_TEXTS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class ResidualSample:
    """Activations at a site that were read from some texts, for comparison."""

    rows_ND: Float[Tensor, "N D"]
    """Raw activations of content tokens, in float32 on the CPU."""
    n_texts: int
    """Texts that they are from."""

    @property
    def median_norm(self) -> float:
        """The median length of an activation."""
        return float(row_norms(self.rows_ND).median())

    @torch.no_grad()
    def fraction(self, intervention: Intervention, sae: SparseAutoencoder) -> float:
        """How long the change is beside the activation that it is added to: the median over the
        sample of |change| / |h|, with all gates open. Changes of one intervention add up as
        vectors; all are taken at this site.

        Raises:
            InputError: there is no such feature or direction, or an edit lacks what it needs.
        """
        rows_ND = self.rows_ND.to(sae.W_dec.device)
        context = Context(rows_ND.shape[-1], rows_ND.device, sae)
        total: Tensor | None = None
        for edit in intervention.edits:
            change = edit_rule(edit, context).change(rearrange(rows_ND, "n d -> 1 n d"))
            change = change if edit.strength == 1 else edit.strength * change
            total = change if total is None else total + change
        assert total is not None  # an intervention has an edit
        sizes_N = row_norms(total.reshape(-1, total.shape[-1]))  # one, or one for each row
        return float((sizes_N / row_norms(rows_ND)).median())


@torch.no_grad()
def residual_sample(loaded: LoadedRun, texts: Iterable[Sequence[int]]) -> ResidualSample:
    """Read the activations of some texts at the site.

    Args:
        loaded: the language model, its site and the autoencoder.
        texts: token ids without BOS; special tokens in them are left out.

    Raises:
        InputError: no text has a content token.
    """
    model, site, _ = loaded
    begin = [] if model.bos_id is None else [model.bos_id]
    of_length = dict[int, list[list[int]]]()  # so that no padding is needed
    for text in texts:
        ids = begin + [token for token in text if token not in model.special_ids]
        ids = ids[: model.max_context]
        of_length.setdefault(len(ids), []).append(ids)
    rows: list[Tensor] = []
    n_texts = 0
    for length, several in of_length.items():
        for start in range(0, len(several) if length else 0, _TEXTS_AT_ONCE):
            tokens_BL = torch.tensor(several[start : start + _TEXTS_AT_ONCE])
            content_BL = ~model.excluded_tokens(tokens_BL)
            if content_BL.any():
                acts_BLD = site.read(tokens_BL)
                rows.append(acts_BLD[content_BL.to(acts_BLD.device)].float().cpu())
                n_texts += int(content_BL.any(dim=1).sum())
    if not rows:
        raise InputError("no text has a token to compare a push with; give longer texts")
    return ResidualSample(torch.cat(rows), n_texts)
