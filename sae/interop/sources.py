"""What names an autoencoder: a dictionary that comes with this package, a folder or file,
`hub:...`, or a name of the catalog."""

from pathlib import Path
from typing import NamedTuple

from ..common.errors import InputError
from ..common.files import nearest
from ..common.shipped import NAMES, SAE_FOLDER, is_here, is_shipped, shipped_folder
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


def locate(source: str | Path) -> Located:
    """Find an autoencoder's files, and download them if they are on the hub.

    The name of a dictionary that comes with this package is meant before a path that exists, as
    fetched names are; `./NAME` is the path. A path that exists is meant before a name of the
    catalog.

    Args:
        source: the name of such a dictionary, a folder or file,
            `hub:OWNER/NAME[/SUBFOLDER][@REVISION]`, or a name of the catalog, RELEASE/ID.

    Raises:
        InputError: there is no such thing, or the hub does not give it.
    """
    if is_shipped(source):
        return Located(shipped_folder(str(source)) / SAE_FOLDER)
    source = str(source)
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
        raise InputError(
            f"{source} does not exist; give the folder of a trained autoencoder{_hint(source)}"
        )
    return Located(path)


def resolved(source: str) -> str:
    """The source as it is found from any folder: a path is made absolute."""
    if is_hub_source(source) or is_shipped(source) or not Path(source).exists():
        return source
    return str(Path(source).absolute())


def _hint(source: str) -> str:
    """What a source that is not there may have meant, as the end of a sentence."""
    if near := nearest(source, NAMES):
        return f"; did you mean {near[0]}?"
    if near := nearest(source.split("/")[0], [release.name for release in catalog.RELEASES]):
        return f"; did you mean {near[0]}/...?"
    here = [name for name in NAMES if is_here(name)]
    return f", or the name of one that comes with sparsteer ({', '.join(here)})" if here else ""
