"""Fitted edits on a model, at a strength: for what is measured of a fit."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from .fitted import FittedEdit

Change = Callable[[Float[Tensor, "*N D"], Mapping[str, Tensor]], Float[Tensor, "*N D"]]
"""From activations h and the tensors of an edit to T(h) - h."""


def _add(h: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    return tensors["v"].expand_as(h)


def _project_out(h: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    return -(h @ tensors["u"])[..., None] * tensors["u"]


def _diagonal(h: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    moved = tensors["w"] * h + tensors["b"] - h
    if "low" not in tensors:
        return moved
    return torch.where((tensors["low"] <= h) & (h <= tensors["high"]), moved, 0.0)


def _lowrank(h: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    return (h @ (tensors["W"] - tensors["R"]).T + tensors["b"]) @ tensors["R"]


CHANGES: dict[str, Change] = {
    "add": _add,
    "project_out": _project_out,
    "diagonal": _diagonal,
    "lowrank": _lowrank,
}
"""The kinds of `FittedEdit` that can be applied here."""


def change_of(edit: FittedEdit, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """T(h) - h of an edit, in the dtype and on the device of h.

    Raises:
        InputError: edits of this kind cannot be applied here.
    """
    if edit.kind not in CHANGES:
        raise InputError(
            f"edits of the kind {edit.kind!r} cannot be measured here, only {', '.join(CHANGES)}; "
            "leave --neutral out"
        )
    return CHANGES[edit.kind](h, {name: tensor.to(h) for name, tensor in edit.tensors.items()})


@contextmanager
def applied(
    model: LanguageModel, edits: Sequence[FittedEdit], strength: float = 1.0
) -> Generator[None]:
    """Within the context the model goes on with h + strength * (T(h) - h) at the edits' sites.

    Edits of one site all read the unedited h, and their changes add up. At strength 0 activations
    are left as they are, to the last bit.

    Raises:
        InputError: an edit is of an unknown kind, or at a site that the model does not have.
    """
    of_site: dict[str, list[FittedEdit]] = {}
    for edit in edits if strength else ():
        of_site.setdefault(edit.site, []).append(edit)

    def edited(site: str) -> Callable[[Tensor], Tensor]:
        def apply(h_BLD: Tensor) -> Tensor:
            changes = [strength * change_of(edit, h_BLD) for edit in of_site[site]]
            return h_BLD + torch.stack(changes).sum(0)

        return apply

    with ExitStack() as stack:
        for site in of_site:
            stack.enter_context(model.site(site).write(edited(site)))
        yield
