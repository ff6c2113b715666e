"""The one vector that an intervention adds, where it adds one."""

from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import at_least_float32
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from .edits.push import push_of
from .intervention import Intervention
from .spec import Edit


def added_vector(
    intervention: Intervention, sae: SparseAutoencoder | None = None
) -> Float[Tensor, "D"]:
    """What an intervention changes a raw activation by at strength and gate 1: the sum of amount *
    vector / input_scale over its features, and of the vectors that it adds.

    Features count as if their edit were `add`. Where an autoencoder normalizes each row, the units
    are those of the normalized row.

    Args:
        intervention: what adds, at one site.
        sae: the autoencoder of the features.

    Raises:
        InputError: it edits several sites, or in a way that depends on the activation.
    """
    if len(intervention.sites) > 1:
        raise InputError(
            f"the intervention edits {', '.join(intervention.sites)}, and one vector is of one "
            "site; give an intervention of one"
        )
    first, *others = (_vector(edit, sae) for edit in intervention.edits)
    for other_D in others:
        first = first + other_D.to(first)
    return first


def _vector(edit: Edit, sae: SparseAutoencoder | None) -> Float[Tensor, "D"]:
    if edit.unit == "norm" or not (edit.features or edit.kind == "add"):
        what = "in the unit norm" if edit.unit == "norm" else f"the edit {edit.kind}"
        raise InputError(
            f"{what} there is no one vector that is added, for the change depends on the "
            "activation; give an edit add in another unit"
        )
    if edit.features:
        if sae is None:
            raise InputError("features are an autoencoder's; give the autoencoder, too")
        push = push_of(edit, sae)
        vector_D = push.unit_D if edit.unit == "raw" else push.raw_D
    elif edit.vectors is None:
        raise InputError("add needs the vector v; fit it, or give the folder of an intervention")
    else:
        given: Tensor = edit.tensors["v"]
        vector_D = given.to(at_least_float32(given.dtype))
    return vector_D if edit.strength == 1 else edit.strength * vector_D
