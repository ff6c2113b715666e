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
"""Of each activation its subclass of `sae.activations.base.Activation`."""
