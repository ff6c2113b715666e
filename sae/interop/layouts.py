"""File layouts: how an autoencoder lies in a folder, this package's way and that of other tools.

A layout is a module, or any other object, with the functions of `Layout`, `ReadableLayout` and
`WritableLayout` that it can offer.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

from ..common.errors import InputError
from ..common.registry import Registry
from .sources import Located, locate

if TYPE_CHECKING:
    import torch

    from ..autoencoder import SparseAutoencoder

OWN = "sparsteer"

_L0_IN_NAME = re.compile(r"l0[_-](\d+(?:\.\d+)?)(?![\dk])", re.IGNORECASE)

ExportDtype = Literal["float32", "bfloat16", "float16", "int8"]
"""What exported weights are stored in; int8 only in this package's own layout."""


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

    def write(self, sae: "SparseAutoencoder", out: Path, dtype: "torch.dtype") -> None:
        """Write the autoencoder's files into `out`, an empty folder, the same bytes each time, with
        weights in `dtype`; an InputError if the layout cannot hold such an autoencoder."""
        ...


@runtime_checkable
class StatingLayout(Layout, Protocol):
    """A layout whose files say how the autoencoder did where it was trained."""

    def stated(self, path: Path) -> dict[str, float]:
        """Figures of the files, as far as they have any: l0, fvu, explained_variance,
        dead_fraction."""
        ...


LAYOUTS: Registry[Layout] = Registry(
    "layout",
    "sparsteer.layouts",
    {
        "circuit-tracer": "sparsteer.sae.interop.circuit_tracer",
        "dictionary_learning": "sparsteer.sae.interop.dictionary_learning",
        "gemma_scope": "sparsteer.sae.interop.gemma_scope",
        "goodfire": "sparsteer.sae.interop.goodfire",
        "llama_scope": "sparsteer.sae.interop.llama_scope",
        "openai": "sparsteer.sae.interop.openai",
        "qwen_scope": "sparsteer.sae.interop.qwen_scope",
        "saelens": "sparsteer.sae.interop.saelens",
        "sparsify": "sparsteer.sae.interop.sparsify",
        OWN: "sparsteer.sae.interop.own_folder",
    },
)
"""The layouts by name."""


class Found(NamedTuple):
    """An autoencoder that a source names, before it is read."""

    located: Located
    """Where its files are."""
    layout: str
    """Their layout."""


def find(source: str | Path, layout: str | None = None) -> Found:
    """Find the files that a source names, and their layout.

    Args:
        source: see `SparseAutoencoder.load`.
        layout: the layout's name; by default that of the catalog, else it is recognized.

    Raises:
        InputError: there is nothing of that name, no layout fits, or several do; a folder that has
            this package's own layout has no other.
    """
    located = locate(source)
    name = layout or located.layout
    if name is not None:
        if not isinstance(LAYOUTS.get(name), ReadableLayout):
            raise InputError(f"layout is {name}, which is only written; choose another")
        return Found(located, name)
    fitting = _fitting(located.path)
    if len(fitting) > 1:
        raise InputError(
            f"{source} fits the layouts {' and '.join(fitting)}; choose one with --layout"
        )
    if not fitting and located.path.is_file():
        readable = [
            name for name in LAYOUTS.names() if isinstance(LAYOUTS.get(name), ReadableLayout)
        ]
        raise InputError(
            f"no layout that can be read ({', '.join(readable)}) recognizes {source}; check the "
            "file, or name its layout with --layout"
        )
    # A folder that fits none is read as this package's own, whose errors say what is missing.
    return Found(located, fitting[0] if fitting else OWN)


def read_found(found: Found) -> "SparseAutoencoder":
    """Read the autoencoder that `find` found; what its files do not say of its origin, the catalog
    says.

    Raises:
        InputError: a file is missing or broken, or does not fit the others.
    """
    layout = LAYOUTS.get(found.layout)
    assert isinstance(layout, ReadableLayout)  # `find` gives no other
    sae = layout.read(found.located.path)
    sae.origin = sae.origin or found.located.origin
    return sae


def stated_figures(found: Found, sae: "SparseAutoencoder") -> dict[str, float]:
    """What an autoencoder's files, its k or the name of its place say of how it does; l0 above all.

    Releases often have L0 in their names, as `average_l0_82` or `L0_50`.
    """
    layout, place = LAYOUTS.get(found.layout), found.located.pinned or str(found.located.path)
    in_files = layout.stated(found.located.path) if isinstance(layout, StatingLayout) else {}
    if (k := sae.config.latents_of_row) is not None:
        return {**in_files, "l0": float(k)}
    in_name = _L0_IN_NAME.findall(place)
    return {**({"l0": float(in_name[-1])} if in_name else {}), **in_files}


def read_source(source: str | Path, layout: str | None = None) -> "SparseAutoencoder":
    """`find` and `read_found`."""
    return read_found(find(source, layout))


def _fitting(path: Path) -> list[str]:
    own = LAYOUTS.get(OWN)
    if own.recognizes(path):
        return [OWN]
    layouts = ((name, LAYOUTS.get(name)) for name in LAYOUTS.names() if name != OWN)
    return [
        name
        for name, layout in layouts
        if isinstance(layout, ReadableLayout) and layout.recognizes(path)
    ]


def writable_layout(name: str) -> WritableLayout:
    """The layout of this name.

    Raises:
        InputError: there is none of the name, or it only reads.
    """
    layout = LAYOUTS.get(name)
    if not isinstance(layout, WritableLayout):
        written = [one for one in LAYOUTS.names() if isinstance(LAYOUTS.get(one), WritableLayout)]
        raise InputError(
            f"layout is {name}, which is read but not written; choose one of {', '.join(written)}",
            field="layout",
        )
    return layout
