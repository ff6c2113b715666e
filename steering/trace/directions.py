"""The direction of what an intervention steers: what the concept's value vectors are to be like."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import row_norms
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ..evaluation.reading import Steered
from ..interventions.intervention import Intervention

_FAR_BELOW = 1e-6
"""Of the activation's length; a change that small is rounding."""


@torch.no_grad()
def concept_directions(
    model: LanguageModel,
    intervention: Intervention,
    sae: SparseAutoencoder | None,
    concept: Sequence[Sequence[int]],
    unrelated: Sequence[Sequence[int]],
    steered: Steered,
) -> Float[Tensor, "K D"]:
    """The unit directions in the residual stream that stand for the concept.

    Of an edit with features that push along their own decoder rows it is these rows. Of any other
    edit it is the mean change that the intervention makes at the edit's site at the content tokens
    of questions about the concept; its sign is so chosen that these tokens lie further along it
    than those of unrelated questions, for steering may push away from the concept.

    Args:
        model: the language model.
        intervention: what steers.
        sae: the autoencoder of its features, if it has any.
        concept, unrelated: questions as token ids, BOS included.
        steered: begins to steer with it.

    Raises:
        InputError: the intervention changes nothing at questions about the concept.
    """
    rows: list[Tensor] = []
    measured: list[str] = []
    for edit in intervention.edits:
        if edit.features and edit.direction == "decoder":
            assert sae is not None  # as whoever prepared the intervention has required
            rows += [sae.W_dec.detach()[feature.index] for feature in edit.features]
        else:
            measured.append(edit.site)
    for site in dict.fromkeys(measured):
        before_D, after_D = _means(model, site, concept, steered)
        other_D, _ = _means(model, site, unrelated, steered)
        change_D = after_D - before_D
        if not float(row_norms(change_D)) > _FAR_BELOW * float(row_norms(before_D)):
            raise InputError(
                f"the intervention changes nothing at {site} at questions about the concept, so "
                "there is no direction to trace; give questions at which its gate is open, or a "
                "strength that is not 0"
            )
        sign = -1.0 if float(change_D @ (before_D - other_D)) < 0 else 1.0
        rows.append(sign * change_D)
    directions_KD = torch.stack([row.double().cpu() for row in rows])
    return directions_KD / row_norms(directions_KD)[:, None]


def _means(
    model: LanguageModel, name: str, texts: Sequence[Sequence[int]], steered: Steered
) -> tuple[Float[Tensor, "D"], Float[Tensor, "D"]]:
    """The mean activation at a site over the content tokens of texts, before and behind what is
    changed there; float64."""
    before: list[Tensor] = []
    behind: list[Tensor] = []

    @contextmanager
    def noting(notes: list[Tensor]) -> Generator[None]:
        # A copy: some sites are written in place.
        with model.network.hooked(
            name,
            lambda acts_BLD: notes.append(acts_BLD.to("cpu", torch.float64, copy=True)),
        ):
            yield

    sums, count = [torch.zeros(model.d_model, dtype=torch.float64) for _ in range(2)], 0
    for text in texts:
        tokens_1L = torch.tensor([list(text)])
        content_L = ~model.excluded_tokens(tokens_1L)[0]
        if not content_L.any():
            continue
        with ExitStack() as stack:
            # Hooks run in the order in which they were put there.
            for context in (noting(before), steered(), noting(behind)):
                stack.enter_context(context)
            model.run(tokens_1L)
        for total_D, notes in zip(sums, (before, behind), strict=True):
            total_D += notes.pop()[0][content_L].sum(dim=0)
        count += int(content_L.sum())
    if not count:
        raise InputError("no question has a token that counts; ask at least two words")
    return sums[0] / count, sums[1] / count
