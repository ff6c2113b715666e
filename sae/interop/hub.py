"""Autoencoders on the Hugging Face hub: `hub:OWNER/NAME[/SUBFOLDER][@REVISION]` as a local path."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from ..common.errors import InputError
from ..fetching.hub import download, listed

PREFIX = "hub:"
"""What a source on the hub begins with."""

PATTERNS = (
    *("*.json", "*.safetensors", "*.npz", "*.pt", "*.pth", "*.yaml"),
    "checkpoints/final.safetensors",  # of Llama Scope
)
"""Names of the files that an autoencoder may lie in, and of those that describe it."""

_SAFE = (".safetensors", ".npz")
_PICKLED = (".pt", ".pth")
_NEVER = ("*optimizer*", "*scheduler*", "training_state*", "rng_state*")
"""States of a training that nobody goes on with here; they are larger than the autoencoder."""

_BESIDE = ("config.json", "cfg.json", "config.yaml")
"""What describes a file that is named by itself, if it lies beside it."""

_FORM = f"{PREFIX}OWNER/NAME[/SUBFOLDER][@REVISION]"
_SOURCE = re.compile(
    rf"{PREFIX}(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:/(?P<subfolder>[^@]+?))?/?(?:@(?P<revision>.+))?"
)


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A source on the hub, in its parts."""

    repository: str
    """OWNER/NAME."""
    subfolder: str | None = None
    """A folder or a file in it; None for its top."""
    revision: str | None = None
    """A branch, a tag or a commit; None for the branch `main`."""

    def __str__(self) -> str:
        within = "" if self.subfolder is None else f"/{self.subfolder}"
        pinned = "" if self.revision is None else f"@{self.revision}"
        return f"{PREFIX}{self.repository}{within}{pinned}"


@dataclass(frozen=True, kw_only=True)
class HubSnapshot:
    """An autoencoder's files, downloaded from the hub."""

    path: Path
    """The folder, or the file, in the local cache."""
    repository: str
    """OWNER/NAME."""
    revision: str
    """The commit that it was read at, in 40 digits."""
    subfolder: str | None
    """The folder or file in the repository; None for its top."""

    @property
    def pinned(self) -> str:
        """The source that names these very files whatever the repository becomes."""
        source = HubSource(
            repository=self.repository, subfolder=self.subfolder, revision=self.revision
        )
        return str(source)


def is_hub_source(source: str | Path) -> bool:
    """Whether the source is one on the hub, `hub:...`, and not a local path."""
    return isinstance(source, str) and source.startswith(PREFIX)


def parse_hub_source(source: str) -> HubSource:
    """The parts of `hub:OWNER/NAME[/SUBFOLDER][@REVISION]`.

    Raises:
        InputError: it has another form.
    """
    match = _SOURCE.fullmatch(source)
    subfolder = match["subfolder"] if match else None
    if match is None or (subfolder and {"", ".", ".."} & set(subfolder.split("/"))):
        raise InputError(f"{source!r} names nothing on the hub; write {_FORM}")
    return HubSource(
        repository=match["repository"], subfolder=subfolder, revision=match["revision"]
    )


def fetch_from_hub(
    source: str,
    *,
    patterns: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> HubSnapshot:
    """Download the files of one autoencoder, unless they are in the hub client's cache.

    Only the named folder itself is taken, nothing of the folders in it: some repositories hold
    hundreds of autoencoders.

    Args:
        source: `hub:OWNER/NAME[/SUBFOLDER][@REVISION]`. The subfolder may be a file, which is
            taken together with a configuration beside it. Without a revision it is the newest.
        patterns: of the files to take, within the subfolder, `*` for any part of a name; by
            default `PATTERNS`, but no pickled `.pt` where there are safetensors or npz files, and
            no state of an optimizer.
        progress: called with a line if something is downloaded.

    Raises:
        InputError: the source has another form, the repository, the revision or the subfolder is
            not there or not open to the user, or the hub cannot be reached and the cache lacks it.
        OSError: the disk is full.
    """
    parts = parse_hub_source(source)

    def choose(names: Sequence[str]) -> list[str]:
        return _chosen(names, parts, patterns)

    snapshot = download(parts.repository, choose, revision=parts.revision, progress=progress)
    return HubSnapshot(
        path=snapshot.folder / (parts.subfolder or ""),
        repository=parts.repository,
        revision=snapshot.commit,
        subfolder=parts.subfolder,
    )


def _chosen(names: Sequence[str], source: HubSource, patterns: Sequence[str] | None) -> list[str]:
    """Which files of the repository to download; raises InputError if there are none."""
    subfolder = source.subfolder
    if subfolder is not None and subfolder in names:
        folder = PurePosixPath(subfolder).parent
        beside = {str(folder / name) for name in _BESIDE}
        return [subfolder, *(name for name in names if name in beside and name != subfolder)]
    prefix = "" if subfolder is None else f"{subfolder}/"
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    found = _wanted(inside) if patterns is None else _matching(inside, patterns)
    if found:
        return [prefix + name for name in found]
    within = f"{PREFIX}{source.repository}"
    if subfolder is not None and not inside:
        what = f"{within} has no {subfolder!r}"
    else:
        what = f"{source} holds no file of an autoencoder ({', '.join(patterns or PATTERNS)})"
    folders = _folders(names, patterns or PATTERNS)
    if not folders:
        raise InputError(f"{what}; name another repository")
    near = listed(subfolder or "", folders)
    raise InputError(f"{what}; name one of its folders, {within}/FOLDER: {near}")


def _wanted(names: Sequence[str]) -> list[str]:
    """The files that lie here by their names, pickles only where there is nothing else."""
    found = [
        name
        for name in _matching(names, PATTERNS)
        if not any(fnmatchcase(name.lower(), pattern) for pattern in _NEVER)
    ]
    if any(name.endswith(_SAFE) for name in found):
        found = [name for name in found if not name.endswith(_PICKLED)]
    return found if any(name.endswith((*_SAFE, *_PICKLED)) for name in found) else []


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that match a pattern, in which `*` stands for no `/`."""
    return [name for name in names if any(_matches(name, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _folders(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The folders that hold files by whose names an autoencoder may lie there."""
    weights = [pattern for pattern in patterns if pattern.endswith((*_SAFE, *_PICKLED))]
    found = [
        str(PurePosixPath(name).parent)
        for name in names
        if "/" in name and any(fnmatchcase(name.rpartition("/")[2], one) for one in weights)
    ]
    return sorted(set(found))
