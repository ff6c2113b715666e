"""What is trained by LinEAS, and its checkpoints, from which training goes on bit for bit."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...sae.common.checksums import read_checked_json, recorded_files, write_checked_json
from ...sae.common.errors import InputError
from ...sae.common.files import atomic_folder
from ...sae.common.tensor_files import load_tensors, save_tensors
from ..errors import NotDefined
from .affine_maps import AffineMap
from .proximal import sparse_group_step
from .trained_config import LinEASConfig

_FORMAT = "sparsteer-lineas-checkpoint"
_STATE_FILE = "state.json"
_TENSORS_FILE = "state.safetensors"
_REMEDY = "delete the folder to begin anew"


class TrainedMap(nn.Module):
    """z -> w (z - center) + center + unit * shift of each coordinate; it begins as the identity.

    With the mean and the standard deviation of the source as center and unit, w and shift have one
    scale and do not disturb each other.
    """

    def __init__(self, unit_M: Float[Tensor, "M"], center_M: Float[Tensor, "M"]) -> None:
        """Take what a shift of 1 means in each coordinate, and which value w leaves alone."""
        super().__init__()
        self.unit_M = unit_M
        self.center_M = center_M
        self.w_M = nn.Parameter(torch.ones_like(unit_M))
        self.shift_M = nn.Parameter(torch.zeros_like(unit_M))

    def forward(self, z: Float[Tensor, "*B M"]) -> Float[Tensor, "*B M"]:
        """The mapped values, in at least the dtype of the parameters."""
        return self.w_M * z + self._b()

    @torch.no_grad()
    def proximal_step(self, config: LinEASConfig, step: float) -> None:
        """Pull w - 1 and the shift towards 0 as l1 and group_l2 say; each of the two is a group."""
        weights = {"l1": config.l1, "group": config.group_l2}
        if any(weights.values()):
            self.w_M.copy_(1 + sparse_group_step(self.w_M - 1, step=step, **weights))
            self.shift_M.copy_(sparse_group_step(self.shift_M, step=step, **weights))

    @torch.no_grad()
    def affine(self) -> AffineMap:
        """The map as it is now."""
        return AffineMap(self.w_M.detach().clone(), self._b().detach())

    def _b(self) -> Float[Tensor, "M"]:
        return (1 - self.w_M) * self.center_M + self.unit_M * self.shift_M


@dataclass(eq=False)
class LinEASState:
    """How far training is: maps, optimizer, and the loss of each step so far."""

    maps: dict[str, TrainedMap]
    """By site, in the model's order."""
    config: LinEASConfig
    losses: list[float] = field(default_factory=list[float])
    left: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """In the further steps without penalties: which elements still move, by the parameter's
    name."""

    def __post_init__(self) -> None:
        self._optimizer = self._new_optimizer()

    @property
    def step(self) -> int:
        """Steps that are done."""
        return len(self.losses)

    @property
    def total(self) -> int:
        """Steps there are in all."""
        return self.config.steps + self.config.post_steps

    def parameters(self) -> dict[str, nn.Parameter]:
        """All that is trained, by site and name."""
        return {
            f"{site}/{name}": parameter
            for site, trained in self.maps.items()
            for name, parameter in (("w", trained.w_M), ("shift", trained.shift_M))
        }

    def update(self, loss: float) -> None:
        """One step along the gradients that are there, and its proximal step.

        Raises:
            NotDefined: loss or a parameter is NaN or infinite.
        """
        in_main_part = self.step < self.config.steps
        if self.step == self.config.steps:
            self._begin_post_steps()
        n_steps = self.config.steps if in_main_part else self.config.post_steps
        done = self.step if in_main_part else self.step - self.config.steps
        lr = self.config.lr * (1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * done / n_steps)) / 2)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if in_main_part:
            for trained in self.maps.values():
                trained.proximal_step(self.config, lr)
        else:
            self._hold_still()
        self.losses.append(loss)
        finite = all(bool(parameter.isfinite().all()) for parameter in self.parameters().values())
        if not math.isfinite(loss) or not finite:
            raise NotDefined(
                f"the loss is {loss} at step {self.step}; give a smaller lr than {self.config.lr:g}"
            )

    def save(self, folder: Path, fingerprint: str) -> None:
        """Write the checkpoint into its folder, which appears whole."""
        tensors = {name: parameter.data for name, parameter in self.parameters().items()}
        tensors |= {f"left/{name}": mask for name, mask in self.left.items()}
        for name, parameter in self.parameters().items():
            for key, value in self._optimizer.state[parameter].items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{key}/{name}"] = value
        with atomic_folder(folder) as new:
            save_tensors(new / _TENSORS_FILE, {name: t.cpu() for name, t in tensors.items()})
            facts = {"format": _FORMAT, "fingerprint": fingerprint, "losses": self.losses}
            files = recorded_files(new, [_TENSORS_FILE])
            write_checked_json(new / _STATE_FILE, {**facts, "files": files})

    def load(self, folder: Path, fingerprint: str) -> None:
        """Go on from the checkpoint in a folder.

        Raises:
            InputError: it is damaged, or of other texts, settings, or another model.
        """
        facts = read_checked_json(folder / _STATE_FILE, "LinEAS checkpoint", remedy=_REMEDY)
        if facts.get("format") != _FORMAT or facts["fingerprint"] != fingerprint:
            raise InputError(
                f"the checkpoint in {folder} is of other texts, settings or another language "
                f"model; {_REMEDY}, or give another one"
            )
        record: Any = facts["files"]
        path = folder / _TENSORS_FILE
        tensors = load_tensors(path, _REMEDY, record=record[_TENSORS_FILE])
        self.losses = list(facts["losses"])
        if self.step > self.config.steps:
            self._begin_post_steps()
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(tensors[name])
                self._optimizer.state[parameter] = {
                    key.split("/")[1]: value.to(parameter.device if "step" not in key else "cpu")
                    for key, value in tensors.items()
                    if key.startswith("optimizer/") and key.endswith(f"/{name}")
                }
                if f"left/{name}" in tensors:
                    self.left[name] = tensors[f"left/{name}"].to(parameter.device)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        parameters = list(self.parameters().values())
        if self.config.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=self.config.lr, betas=(0.9, 0.9))
        return torch.optim.SGD(parameters, lr=self.config.lr)

    def _begin_post_steps(self) -> None:
        """From now on only what moved so far moves on; the optimizer forgets."""
        identity = {"w": 1.0, "shift": 0.0}
        gradients = {name: p.grad for name, p in self.parameters().items()}
        self._optimizer = self._new_optimizer()
        for name, parameter in self.parameters().items():
            parameter.grad = gradients[name]
            self.left[name] = parameter.detach() != identity[name.rsplit("/", 1)[1]]

    @torch.no_grad()
    def _hold_still(self) -> None:
        for name, parameter in self.parameters().items():
            identity = 1.0 if name.endswith("/w") else 0.0
            parameter.copy_(torch.where(self.left[name], parameter, identity))


def fingerprint_of(
    config: LinEASConfig,
    rows: Sequence[Sequence[Sequence[int]]],
    weights: Sequence[str],
) -> str:
    """SHA-256 of all that decides what training comes to: the settings but for how often it is
    saved, the token ids of the texts, and hashes of the weights of the model and autoencoders."""
    settings = {**asdict(config), "checkpoint_every": None}
    facts = json.dumps([settings, [list(map(list, side)) for side in rows], list(weights)])
    return hashlib.sha256(facts.encode()).hexdigest()
