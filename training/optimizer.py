"""Adam over a module's parameters: chosen rows stay unit, gradients may be clipped together."""

from collections.abc import Callable, Collection

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..kernels.numerics import at_least_float32
from ..kernels.optimizer import adam_step_, clipping_factor, gradient_norm
from ..kernels.step_numbers import StepNumbers, step_numbers
from .precision import RoundedWeights


class Adam:
    """Adam (arXiv 1412.6980) whose step is one pass over the weights.

    Attributes:
        unit_rows: names of the parameters whose rows keep norm 1.
        first, second: moments of each trained parameter, by its name, of the rows that are updated
            here.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        unit_rows: Collection[str],
        betas: tuple[float, float],
        epsilon: float,
        clip_norm: float | None = None,
        norm: Callable[[dict[str, Tensor]], Tensor] = lambda found: gradient_norm(found.values()),
        rows: Callable[[Tensor], slice | None] = lambda weights: None,
        gather: Callable[[Tensor], None] = lambda weights: None,
        rounded: RoundedWeights | None = None,
    ) -> None:
        """Moments of zero for every parameter of the module that wants a gradient.

        Args:
            unit_rows: names of the parameters whose rows keep norm 1.
            clip_norm: largest norm of all gradients together; None for no limit.
            norm: takes that norm of gradients by name; they may be but a part of them all.
            rows: which rows of a parameter are updated here, and have moments; None for all.
            gather: writes the rows that are updated elsewhere to the parameter.
            rounded: copies of parameters that a step writes together with these.
        """
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.unit_rows = unit_rows
        self._betas = betas
        self._epsilon = epsilon
        self._clip_norm = clip_norm
        self._norm = norm
        self._gather = gather
        self._rows = {name: rows(p) for name, p in self._parameters.items()}
        own = {name: self._own(name, p.detach()) for name, p in self._parameters.items()}
        self.first = {name: _moment(part) for name, part in own.items()}
        self.second = {name: _moment(part) for name, part in own.items()}
        self._rounded = rounded

    def numbers(self, number: int, lr: float) -> StepNumbers:
        """What alone step `number` (from 1) does not share with the others."""
        return step_numbers(number, lr, self._betas)

    def step(
        self,
        number: int,
        lr: float,
        applies: Bool[Tensor, ""] | None = None,
        *,
        in_memory: Float[Tensor, "3"] | None = None,
    ) -> Float[Tensor, ""]:
        """Take step `number` (from 1) with the gradients that are there, and drop them.

        Args:
            applies: where false weights and moments stay; on their device, which need not be
                waited for.
            in_memory: `numbers` on that device, which is read in place of `number` and `lr`; see
                `adam_step_`.

        Returns:
            The norm of all gradients together, before any clipping.

        Raises:
            RuntimeError: a parameter has no gradient.
        """
        gradients = {name: self._gradient(name) for name in self._parameters}
        norm, clip = self._norm(gradients), self._clip_norm
        factor = None if clip is None else clipping_factor(norm, clip)
        for name, parameter in self._parameters.items():
            copy = None
            if self._rounded is not None and self._rows[name] is None:  # else a part would be old
                copy = self._rounded.buffer(name, parameter)
            adam_step_(
                self._own(name, parameter.data),
                self._own(name, gradients.pop(name)),
                self.first[name],
                self.second[name],
                step=number,
                lr=lr,
                betas=self._betas,
                epsilon=self._epsilon,
                unit_rows=name in self.unit_rows,
                rounded=copy,
                factor=factor,
                applies=applies,
                in_memory=in_memory,
            )
            if self._rounded is not None and copy is not None:
                self._rounded.written(name, parameter)
            parameter.grad = None
            self._gather(parameter.data)
        return norm

    def state(self) -> dict[str, Tensor]:
        """The moments under `first.NAME` and `second.NAME`."""
        state = {f"first.{name}": moment for name, moment in self.first.items()}
        return state | {f"second.{name}": moment for name, moment in self.second.items()}

    def partial(self) -> set[str]:
        """The names, as `state` gives them, of the moments that are of some rows alone."""
        parameters = [name for name, rows in self._rows.items() if rows is not None]
        return {f"{order}.{name}" for order in ("first", "second") for name in parameters}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over the moments of all rows, as `state` gives them where all are updated here; of
        those that are `partial` the rows that are updated here. KeyError names a missing one."""
        for name, moment in self.state().items():
            moment.copy_(self._own(name.partition(".")[2], state[name]))

    def _own(self, name: str, tensor: Tensor) -> Tensor:
        """The rows of a parameter's tensor that are updated here."""
        rows = self._rows[name]
        return tensor if rows is None else tensor[rows]

    def _gradient(self, name: str) -> Tensor:
        gradient = self._parameters[name].grad
        if gradient is None:
            raise RuntimeError(f"the loss does not reach {name}")
        return gradient


def _moment(parameter: Tensor) -> Tensor:
    dtype = at_least_float32(parameter.dtype)
    return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
