"""What names an autoencoder: a folder or file, `hub:...`, or a name of the catalog."""

from pathlib import Path
from typing import NamedTuple

from ..common.errors import InputError
from ..common.files import nearest
from ..config import Origin
from . import catalog
from .hub import fetch_from_hub, is_hub_source


class Located(NamedTuple):
    """The files of an autoencoder, on this machine."""

    path: Path
    """Its folder or file."""
    layout: str | None = None
    """Its layout, where the catalog says it."""
    origin: Origin | None = None
    """Its language model and site, where the catalog says them."""
    pinned: str | None = None
    """Of one on the hub, the source that names these very files: it has the commit in it."""


def locate(source: str) -> Located:
    """Find an autoencoder's files, and download them if they are on the hub.

    A path that exists is meant before a name of the catalog.

    Args:
        source: a folder or file, `hub:OWNER/NAME[/SUBFOLDER][@REVISION]`, or a name of the catalog,
            RELEASE/ID.

    Raises:
        InputError: there is no such thing, or the hub does not give it.
    """
    if is_hub_source(source):
        snapshot = fetch_from_hub(source)
        return Located(snapshot.path, pinned=snapshot.pinned)
    if not source:
        raise InputError("the source is empty; give the folder of a trained autoencoder")
    path = Path(source)
    if not path.exists() and (entry := catalog.entry(source)):
        snapshot = fetch_from_hub(entry.source)
        return Located(snapshot.path, entry.layout, entry.origin, snapshot.pinned)
    if not path.exists():
        first = source.split("/")[0]
        release = next((one for one in catalog.RELEASES if one.name == first), None)
        if release is not None:
            raise InputError(
                f"{source} names no autoencoder of the release {first}; name one as "
                f"{first}/{release.example}"
            )
        near = nearest(first, [release.name for release in catalog.RELEASES])
        hint = f"; did you mean {near[0]}/...?" if near else ""
        raise InputError(f"{source} does not exist; give the folder of a trained autoencoder{hint}")
    return Located(path)


def resolved(source: str) -> str:
    """The source as it is found from any folder: a path is made absolute."""
    if is_hub_source(source) or not Path(source).exists():
        return source
    return str(Path(source).absolute())
