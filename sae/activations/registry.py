"""The activations by name: those of this package and those of installed ones. Imports no torch."""

from typing import Any

from ..common.registry import Registry

_HERE = "sparsteer.sae.activations"

ACTIVATIONS: Registry[Any] = Registry(
    "activation",
    "sparsteer.activations",
    {
        "topk": f"{_HERE}.topk:TopK",
        "batch_topk": f"{_HERE}.batch_topk:BatchTopK",
        "top_afa": f"{_HERE}.top_afa:TopAFA",
        "jumprelu": f"{_HERE}.jumprelu:JumpReLU",
    },
)
"""Those that can be trained; of each its subclass of `sae.activations.base.Activation`."""

INFERENCE_ACTIVATIONS: Registry[Any] = Registry(
    "activation",
    "sparsteer.inference_activations",
    {
        "relu": f"{_HERE}.relu:ReLU",
        "gated": f"{_HERE}.gated:Gated",
        "group_max": f"{_HERE}.group_max:GroupMax",
    },
)
"""Those of autoencoders that other libraries trained; they encode, but are not trained here."""


def activation_names() -> tuple[str, ...]:
    """Every activation that an autoencoder can have."""
    return (*ACTIVATIONS.names(), *INFERENCE_ACTIVATIONS.names())


def activation_class(name: str) -> Any:
    """The subclass of `sae.activations.base.Activation` of this name.

    Raises:
        InputError: there is none.
    """
    registry = INFERENCE_ACTIVATIONS if name in INFERENCE_ACTIVATIONS.names() else ACTIVATIONS
    return registry.get(name)
