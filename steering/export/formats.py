"""What a format of steering is given, and what it must do."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ..interventions.added_vector import added_vector
from ..interventions.intervention import Intervention


class SteeringFormat(Protocol):
    """How an intervention lies in a folder for another tool; a module or any other object."""

    def write(self, steering: "ConstantSteering", folder: Path, out: Path) -> list[str]:
        """Write the files into an empty folder, the same bytes each time.

        Args:
            steering: the vector, and the block behind which it is added.
            folder: where to write now.
            out: the name that the folder gets once it is whole, for the sentences.

        Returns:
            Sentences that say how the other tool takes the files.

        Raises:
            InputError: the format cannot hold the intervention.
        """
        ...


@dataclass(frozen=True)
class ConstantSteering:
    """An intervention that adds one vector to the output of one block, at every position."""

    model: LanguageModel
    sae: SparseAutoencoder | None
    """Of the features; None where a vector is added that was fitted."""
    intervention: Intervention

    def __post_init__(self) -> None:
        """Raise an InputError unless the intervention is of that kind."""
        _require_one_vector(self.intervention)
        normalization = "none" if self.sae is None else self.sae.config.normalize_activations
        if self.intervention.features and normalization != "none":
            raise InputError(
                f"the autoencoder normalizes each token's activation ({normalization}), so that "
                "its features push each by another vector, and an exported vector is the same "
                "everywhere; steer with generate"
            )
        _ = self.layer

    @property
    def layer(self) -> int:
        """The block, counted from 0, to whose output the vector is added.

        What one block gives is what the next one reads: resid_pre of block i is resid_post of
        block i - 1.

        Raises:
            InputError: the site is no residual stream behind a block.
        """
        site = self.model.site(self.intervention.site)
        kind = site.name.rpartition("hook_")[2]
        if kind not in ("resid_pre", "resid_post"):
            raise InputError(
                f"site is {site.name}, and other tools steer the residual stream between blocks; "
                "steer at a hook_resid_post or hook_resid_pre",
                field="site",
            )
        layer = site.layer - (kind == "resid_pre")
        if layer < 0:
            raise InputError(
                f"site is {site.name}, before the first block, and other tools add to what a block "
                "gives; steer at hook_resid_post of a block",
                field="site",
            )
        return layer

    @cached_property
    def vector_D(self) -> Float[Tensor, "D"]:
        """What is added, in the units of the model's own activations; float32 on the CPU."""
        with torch.no_grad():
            return added_vector(self.intervention, self.sae).detach().float().cpu().contiguous()

    @property
    def config(self) -> Any:
        """The configuration of the transformers model."""
        network: Any = self.model.network.model
        return network.config


def require_constant(tier: str, edit: str = "add") -> None:
    """Raise an InputError unless a gate and an edit add the same at every token."""
    if tier != "constant":
        raise InputError(
            f"tier is {tier}, which steers some tokens only, and an exported vector is added to "
            "every token; only constant can be exported",
            field="tier",
        )
    if edit != "add":
        raise InputError(
            f"edit is {edit}, which depends on the activation, and an exported vector is the same "
            "everywhere; only the edit add can be exported",
            field="edit",
        )


def _require_one_vector(intervention: Intervention) -> None:
    """Raise an InputError unless an intervention adds the same at every token of one site."""
    for edit in intervention.edits:
        require_constant((edit.gate or intervention.gate).kind, edit.kind)
    limits = {"positions": intervention.positions != "all", "cap": intervention.cap is not None}
    for name, limited in limits.items():
        if limited:
            raise InputError(
                f"{name} limits where or how far the intervention steers, and an exported vector "
                f"is added to every token; leave {name} out"
            )
