"""A Jacobian lens of the language model: what a direction at a middle layer comes to at the last.

The lens has for each layer a matrix, the mean over texts of the derivative of the last block's
output by this layer's. It is fitted beforehand: files are published, and
`transformer_lens.tools.analysis.JacobianLens` fits and saves them.
"""

import re
from pathlib import Path
from typing import cast

from jaxtyping import Float
from torch import Tensor

from ...sae.common.errors import InputError
from ...sae.interop.reading import read_pickled

NONE_GIVEN = "no Jacobian lens was given (--lens FILE)"

_REMEDY = "give a lens of this language model, or leave --lens out"


def block_of(site: str) -> int | None:
    """The block whose output a direction at a site is added to; None where that is not direct."""
    found = re.fullmatch(r"blocks\.(\d+)\.hook_(resid_pre|resid_post|mlp_out)", site)
    if found is None:
        return None
    return int(found[1]) - (found[2] == "resid_pre")


def jacobian(
    file: str, site: str, *, d_model: int, n_layers: int
) -> tuple[Float[Tensor, "D D"] | None, str]:
    """The matrix that takes a direction at a site to the last block's output.

    Args:
        file: of the lens, as `JacobianLens.save` writes it.
        site: where the direction is.
        d_model, n_layers: of the language model.

    Returns:
        The matrix, float32, and an empty text; or None and why there is none, in a sentence.

    Raises:
        InputError: the file is no lens, or one of another model.
    """
    content = read_pickled(Path(file))
    matrices: object = cast(dict[str, object], content).get("J") if type(content) is dict else None
    by_layer = cast(dict[object, object], matrices) if isinstance(matrices, dict) else {}
    if not by_layer:
        raise InputError(f"{file} is no Jacobian lens: it holds no matrices J; {_REMEDY}")
    for layer, matrix in by_layer.items():
        if not isinstance(matrix, Tensor) or matrix.shape != (d_model, d_model):
            raise InputError(
                f"{file} is a Jacobian lens of another language model (its matrix of layer {layer} "
                f"is not {d_model} by {d_model}); {_REMEDY}"
            )
        if not isinstance(layer, int) or not 0 <= layer < n_layers:
            raise InputError(
                f"{file} is a Jacobian lens of another language model (it has a layer {layer}, the "
                f"model {n_layers} layers); {_REMEDY}"
            )
    block = block_of(site)
    if block is None:
        return None, f"a Jacobian lens reads the output of blocks, and {site} is none"
    if block == n_layers - 1:
        return None, "the site is the last block's output, whose lens is the positive logits"
    if block not in by_layer:
        return None, f"the Jacobian lens has no matrix for {site}"
    matrix = cast(Tensor, by_layer[block]).float()
    if not matrix.isfinite().all():
        raise InputError(f"{file} holds NaN or infinity at layer {block}; {_REMEDY}")
    return matrix, ""
