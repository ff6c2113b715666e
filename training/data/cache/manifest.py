"""`manifest.json` of an activation cache: what it holds, of which model and text, and checksums."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from ....sae.common.checksums import read_checked_json, write_checked_json
from ....sae.common.errors import InputError
from ....sae.config import build_dataclass
from ..corpus_config import CacheDtype

FILE = "manifest.json"
FORMAT = "sparsteer activation cache"
VERSION = 2
_VERSIONS = (1, VERSION)
"""That are read; the first has no checksum of its own."""

EXCLUDED = ("bos", "separator", "first_token", "padding", "surplus")
"""Why a position of a context has no row: it is BOS; a separator or another special token; the
first token with meaning of its context (an attention sink, like BOS); padding; or it lies behind
the last row that was asked for."""

T = TypeVar("T")
_Many = tuple[object, ...]
_Map = dict[str, object]

_REMEDY = "restore it, or write the cache again"


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard file, which is whole and never changes."""

    file: str
    contexts: int
    held_out_contexts: int
    rows: int
    held_out_rows: int
    excluded: dict[str, int]
    """Positions without a row, by the reasons of EXCLUDED; rows and these sum to all positions."""
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class CorpusEntry:
    """The text that the activations are of."""

    dataset: str
    """What the user asked for."""
    fingerprint: str
    """Of local files the SHA-256 of their content; of a hub data set its name and commit."""
    revision: str | None
    """Commit of a hub data set."""
    parts: tuple[str, ...]
    """Files (or hub shards) in order: document `doc` is row `doc // len(parts)` of part `doc %
    len(parts)`, both counted from 0."""
    documents: int = 0
    """Documents read so far."""
    held_out_documents: int = 0
    empty_documents: int = 0
    """Documents without text; they count among the documents and have no row."""


@dataclass(frozen=True, kw_only=True)
class CacheManifest:
    """What an activation cache holds; written anew whenever a shard is whole."""

    complete: bool
    """Whether all rows asked for, or all that the corpus gives, are there."""
    model: str
    """The language model: its name, but for a local one its absolute path."""
    weights_hash: str
    tokenizer_hash: str
    sites: tuple[str, ...]
    d_model: int
    """D, width of the activations at every site."""
    dtype: str
    context_length: int
    contexts_per_shard: int
    """Contexts in every shard but the last."""
    threads: int
    """Threads that torch ran with, which the last bits of an activation depend on."""
    corpus: CorpusEntry
    config: dict[str, Any]
    """The settings that decide the content."""
    model_dtype: str = "float32"
    """The dtype in which the language model ran."""
    held_out_below: int = 0
    """Documents are held out whose text's hash is below this; 0 holds out none."""
    notices: tuple[str, ...] = ()
    """What the user should know about this cache, in sentences."""
    shards: tuple[ShardEntry, ...] = ()

    @property
    def rows(self) -> int:
        """Activation rows at each site."""
        return sum(shard.rows for shard in self.shards)

    @property
    def held_out_rows(self) -> int:
        return sum(shard.held_out_rows for shard in self.shards)

    @property
    def excluded(self) -> dict[str, int]:
        """Positions without a row, by reason."""
        return {why: sum(shard.excluded[why] for shard in self.shards) for why in EXCLUDED}

    @property
    def fingerprint(self) -> str:
        """One hash for all the content."""
        digests = "\n".join(shard.sha256 for shard in self.shards)
        return hashlib.sha256(digests.encode()).hexdigest()


def write_manifest(folder: Path, manifest: CacheManifest) -> None:
    """Write `manifest.json` atomically, with the totals over the shards for who reads the file."""
    values = dataclasses.asdict(manifest)
    totals = {name: getattr(manifest, name) for name in _TOTALS}
    shards = values.pop("shards")
    head = {"format": FORMAT, "version": VERSION}
    write_checked_json(folder / FILE, {**head, **values, **totals, "shards": shards})


def read_manifest(folder: Path) -> CacheManifest:
    """Read and check `manifest.json`.

    Raises InputError if it is missing, broken, not as it was written, or of another format, or if
    it contradicts itself.
    """
    path = folder / FILE
    if folder.is_dir() and not path.exists():
        raise InputError(f"{folder} holds no {FILE}, so it is no activation cache; check the path")
    if not folder.exists():
        raise InputError(f"there is no activation cache at {folder}; check the path")
    values = read_checked_json(path, "activation cache's manifest", remedy=_REMEDY)
    if values.pop("format", None) != FORMAT:
        raise InputError(f"{path} is not the manifest of an activation cache; check the path")
    if (version := values.pop("version", None)) not in _VERSIONS:
        raise InputError(
            f"{path} has version {version!r}, and this sparsteer reads version {VERSION}; "
            "write the cache again, or use the sparsteer that wrote it"
        )
    totals = {name: values.pop(name, None) for name in _TOTALS}
    manifest = _manifest(values, str(path))
    for name, total in totals.items():
        if getattr(manifest, name) != total:
            raise InputError(
                f"{path} is broken: its {name} is {total!r}, but its shards sum to "
                f"{getattr(manifest, name)!r}; {_REMEDY}"
            )
    return manifest


_TOTALS = ("rows", "held_out_rows", "excluded")


def _all_are(kind: type, values: Iterable[object]) -> bool:
    return all(type(value) is kind for value in values)


_CHECKS: dict[object, Callable[[Any], bool]] = {
    bool: lambda value: type(value) is bool,
    int: lambda value: type(value) is int and value >= 0,
    str: lambda value: type(value) is str,
    str | None: lambda value: value is None or type(value) is str,
    tuple[str, ...]: lambda value: type(value) is tuple and _all_are(str, cast(_Many, value)),
    dict[str, int]: lambda value: type(value) is dict and _all_are(int, cast(_Map, value).values()),
    dict[str, Any]: lambda value: type(value) is dict,
}
"""What each type of a field in the JSON file must look like."""


def _manifest(values: dict[str, Any], where: str) -> CacheManifest:
    shards = values.get("shards")
    if not isinstance(shards, list):
        raise InputError(f"{where} is broken (its shards are no list); {_REMEDY}")
    entries = [_build(ShardEntry, shard, where) for shard in cast(list[object], shards)]
    for entry in entries:
        possible = (
            set(entry.excluded) == set(EXCLUDED)
            and Path(entry.file).name == entry.file
            and entry.held_out_rows <= entry.rows <= entry.bytes
            and entry.held_out_contexts <= entry.contexts <= entry.bytes
        )
        if not possible:
            raise InputError(f"{where} is broken (its shard {entry.file!r}); {_REMEDY}")
    if not values.get("sites"):
        raise InputError(f"{where} is broken (it names no site); {_REMEDY}")
    corpus = _build(CorpusEntry, values.get("corpus"), where)
    if (dtype := values.get("dtype")) not in get_args(CacheDtype):
        raise InputError(f"{where} is broken (dtype is {dtype!r}); {_REMEDY}")
    return _build(CacheManifest, {**values, "corpus": corpus, "shards": tuple(entries)}, where)


def _build(cls: type[T], values: object, where: str) -> T:
    """A dataclass from JSON values, whose plain fields have the type that they should have."""
    if not isinstance(values, dict):
        raise InputError(f"{where} is broken ({values!r} where an object is needed); {_REMEDY}")
    frozen = {
        key: tuple(cast(list[object], value)) if isinstance(value, list) else value
        for key, value in cast(dict[str, object], values).items()
    }
    for field in dataclasses.fields(cls):  # pyright: ignore[reportArgumentType] - a dataclass
        check = _CHECKS.get(field.type)
        if check and field.name in frozen and not check(frozen[field.name]):
            raise InputError(
                f"{where} is broken ({field.name} is {frozen[field.name]!r}); {_REMEDY}"
            )
    return build_dataclass(cls, frozen, where)
