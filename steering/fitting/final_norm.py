"""The final norm of a language model and its gradient, exactly, and the direct path to the logits.

For xh the normalized residual and u a vector that reads the norm's output, with gain g:

- LayerNorm, xh = (x - mean) / sigma: the gradient of u . norm(x) is
  (1 / sigma) (I - 1 1^T / D - xh xh^T / D) (g * u);
- RMSNorm, xh = x / r: it is (1 / r) (I - xh xh^T / D) (g * u).

Where u . (g * xh) = 0, on the decision boundary, the last term vanishes: the direction then depends
on the weights alone, and x sets the length only.
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import at_least_float32
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from .observables import Observable


@dataclass(frozen=True, eq=False)
class FinalNorm:
    """What stands between the residual stream and the unembedding."""

    gain_D: Float[Tensor, "D"]
    """By which the normalized residual is multiplied."""
    bias_D: Float[Tensor, "D"]
    centered: bool
    """Whether the mean is subtracted first: LayerNorm, else RMSNorm."""
    eps: float
    """Added to the mean square."""

    def size(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        """sigma or r: by what the residual is divided."""
        if self.centered:
            x = x - x.mean(-1, keepdim=True)
        return (x.square().mean(-1) + self.eps).sqrt()

    def __call__(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The norm's output."""
        return self.gain_D * self._normalized(x) + self.bias_D

    def gradient(self, x: Float[Tensor, "*B D"], u_D: Float[Tensor, "D"]) -> Float[Tensor, "*B D"]:
        """The gradient of u . norm(x) by x, in closed form."""
        v_D = self.boundary_direction(u_D)
        xh = self._normalized(x)
        along = (xh @ v_D)[..., None] / x.shape[-1]
        return (v_D - xh * along) / self.size(x)[..., None]

    def boundary_direction(self, u_D: Float[Tensor, "D"]) -> Float[Tensor, "D"]:
        """The gradient of u . norm(x) where that is 0 but for the bias, times sigma or r: the gain
        times u, centered for a LayerNorm."""
        v_D = self.gain_D * u_D
        return v_D - v_D.mean() if self.centered else v_D

    def _normalized(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        size = self.size(x)[..., None]
        return (x - x.mean(-1, keepdim=True) if self.centered else x) / size


@torch.no_grad()
def final_norm(model: LanguageModel) -> FinalNorm:
    """What the final norm of a model computes, found by what it makes of a few vectors.

    Raises:
        InputError: it is neither a LayerNorm nor an RMSNorm.
    """
    norm = _NormOfModel(model)
    width, dtype = model.d_model, at_least_float32(model.dtype)
    signs_D = torch.ones(width, dtype=dtype, device=model.device)
    signs_D[1::2] = -1
    draw = torch.Generator().manual_seed(0)
    drawn_D = torch.randn(width, generator=draw, dtype=torch.float64).to(signs_D)
    zero_D, large_D, small_D, one_D, shifted_D = norm(
        torch.stack([0 * signs_D, 1e3 * signs_D, 1e-2 * signs_D, drawn_D, drawn_D + 1])
    )
    if len(zero_D) != width:
        raise InputError(
            f"{model.name} changes the width behind its last layer, so there is no closed form; "
            "take the gradient at prompts (how: gradient)"
        )
    centered = torch.allclose(one_D, shifted_D, rtol=1e-3, atol=1e-3)
    center = float(signs_D.mean()) if centered else 0.0  # not 0 for an odd width
    gain_D = (large_D - zero_D) / (signs_D - center) * (1 - center**2) ** 0.5
    share = ((small_D - zero_D) @ (large_D - zero_D)) / (large_D - zero_D).square().sum()
    eps = float(1e-4 * (1 - center**2) * (share**-2 - 1).clamp(min=0))
    found = FinalNorm(gain_D, zero_D, centered, eps)
    if not torch.allclose(found(drawn_D), one_D, rtol=1e-2, atol=1e-2 * float(one_D.abs().max())):
        raise InputError(
            f"the final norm of {model.name} is neither a LayerNorm nor an RMSNorm, so there is no "
            "closed form; take the gradient at prompts (how: gradient)"
        )
    return found


def unembedded(model: LanguageModel, observable: Observable) -> Float[Tensor, "H"]:
    """W_U^T n: what of the head's input the observable reads, before anything that a model may do
    to its logits behind the unembedding, such as capping them."""
    hidden_1H = torch.zeros(
        1, _NormOfModel(model).width_of_head(), dtype=model.dtype, device=model.device
    )
    with torch.enable_grad():
        hidden_1H.requires_grad_()
        logits_1V = model.network.head(rearrange(hidden_1H, "b h -> b 1 h"))[0]
        n_V = observable.weights(logits_1V.shape[-1], logits_1V)
        (gradient_1H,) = torch.autograd.grad((logits_1V @ n_V).sum(), hidden_1H)
    return gradient_1H[0].to(at_least_float32(model.dtype))


class _NormOfModel:
    """Runs the model with its last residual replaced, and looks at what its head is given."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._last = model.site(f"blocks.{model.n_layers - 1}.hook_resid_post")

    def __call__(self, x_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N H"]:
        seen: list[Tensor] = []
        tokens_1N = torch.full((1, 1), 0 if self._model.bos_id is None else self._model.bos_id)

        def note(hidden: Tensor) -> Tensor:
            seen.append(hidden)
            return hidden

        rows: list[Tensor] = []
        for x_D in x_ND:
            replaced_BLD: Any = rearrange(x_D, "d -> 1 1 d").to(self._model.dtype)
            with (
                self._last.write(lambda h, new=replaced_BLD: new.to(h).clone()),
                self._model.network.head_hooked(note),
            ):
                self._model.run(tokens_1N)
            rows.append(seen.pop()[0, -1])
        return torch.stack(rows).to(x_ND.dtype)

    def width_of_head(self) -> int:
        """H: of what the head reads."""
        with torch.no_grad():
            return self(torch.zeros(1, self._model.d_model, device=self._model.device)).shape[-1]
