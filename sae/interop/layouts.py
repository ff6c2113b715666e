"""File layouts: how an autoencoder lies in a folder, this package's way and that of other tools.

A layout is a module, or any other object, with the functions of `Layout`, `ReadableLayout` and
`WritableLayout` that it can offer.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..common.errors import InputError
from ..common.registry import Registry

if TYPE_CHECKING:
    from ..autoencoder import SparseAutoencoder


@runtime_checkable
class Layout(Protocol):
    """What every layout has."""

    def recognizes(self, path: Path) -> bool:
        """Whether the folder (or file) has this layout, by a look at its names or first bytes."""
        ...


@runtime_checkable
class ReadableLayout(Layout, Protocol):
    """A layout from which autoencoders are loaded."""

    def read(self, path: Path) -> "SparseAutoencoder":
        """The autoencoder in a folder that `recognizes` accepts; an InputError if it is damaged."""
        ...


@runtime_checkable
class WritableLayout(Layout, Protocol):
    """A layout to which autoencoders are exported."""

    def write(self, sae: "SparseAutoencoder", out: Path) -> None:
        """Write the autoencoder's files into `out`, an empty folder, the same bytes each time; an
        InputError if the layout cannot hold such an autoencoder."""
        ...


LAYOUTS: Registry[Layout] = Registry(
    "layout",
    "sparsteer.layouts",
    {
        "saelens": "sparsteer.sae.interop.saelens",
        "sparsteer": "sparsteer.sae.interop.own_folder",
    },
)
"""The layouts by name."""


def layout_of(path: Path) -> ReadableLayout | None:
    """The first layout that recognizes the path and can read it; None if there is none."""
    for name in LAYOUTS.names():
        layout = LAYOUTS.get(name)
        if isinstance(layout, ReadableLayout) and layout.recognizes(path):
            return layout
    return None


def writable_layout(name: str) -> WritableLayout:
    """The layout of this name.

    Raises:
        InputError: there is none of the name, or it only reads.
    """
    layout = LAYOUTS.get(name)
    if not isinstance(layout, WritableLayout):
        raise InputError(f"layout is {name}, which only reads; choose another", field="layout")
    return layout
