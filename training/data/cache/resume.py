"""What a folder holds before an activation cache is written there, and whether to go on with it."""

import dataclasses
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ....sae.common.errors import InputError
from ....sae.common.files import sha256_file
from ....sae.common.locks import hold_folder, is_leftover
from ....sae.language_model.model import LanguageModel
from ..context_length import context_length_of
from ..corpus import Corpus
from ..corpus_config import DEFAULT_CONTEXT_LENGTH
from ..settings import lasting_names, plain, to_plain
from .config import CacheConfig
from .manifest import FILE as MANIFEST
from .manifest import CacheManifest, ShardEntry, read_manifest
from .shards import Shard, ShardContent

_INDIFFERENT = ("out", "device", "device_map", "skip_bad_rows")
"""Settings that do not decide the content: without `skip_bad_rows` there was nothing to skip."""
_ROUNDING = "batch_size"
"""Decides nothing but last bits, and may have to be lowered for want of memory."""


def as_begun(config: CacheConfig, load: Callable[[], LanguageModel]) -> CacheConfig:
    """The configuration with the context length that it comes to, if its folder has a cache to
    compare it with; the model is loaded only if that length depends on it."""
    folder = Path(config.out)
    if config.context_length is not None or not (folder / MANIFEST).exists():
        return config
    length = DEFAULT_CONTEXT_LENGTH  # which a model reads that has read as many or more
    if read_manifest(folder).context_length < length:
        length = context_length_of(config, load())
    return dataclasses.replace(config, context_length=length)


def previous_manifest(folder: Path, config: CacheConfig) -> CacheManifest | None:
    """The manifest of what is in the folder, None if there are no shards; anything else is refused.

    A manifest without shards is what a writer leaves that was killed before the first of them.
    """
    if not (folder / MANIFEST).exists():
        if folder.exists() and not (folder.is_dir() and all(map(is_leftover, folder.iterdir()))):
            raise InputError(
                f"{folder} exists and is no activation cache; give another --out or an empty folder"
            )
        return None
    manifest = read_manifest(folder)
    if not manifest.shards:
        return None
    # What a setting that an older sparsteer did not know does by default, it did then.
    known = {
        field.name: field.default
        for field in dataclasses.fields(config)
        if field.default is not dataclasses.MISSING and field.name not in _INDIFFERENT
    }
    # Whose defaults are not the same everywhere.
    known |= {"model_dtype": CacheManifest.model_dtype, "dtype": manifest.dtype}
    wanted, found = deciding_settings(config), lasting_names(plain(known) | manifest.config)
    for name in [*wanted, *(name for name in found if name not in wanted)]:
        if name != _ROUNDING and found.get(name) != wanted.get(name):
            raise InputError(
                f"{folder} holds a cache with {name}={found.get(name)!r}, not "
                f"{wanted.get(name)!r}; give another --out, or the same settings to go on"
            )
    return manifest


def deciding_settings(config: CacheConfig) -> dict[str, Any]:
    """The settings that decide the content of a cache, as plain values."""
    settings = lasting_names(to_plain(config))
    return {name: value for name, value in settings.items() if name not in _INDIFFERENT}


def about_other_rounding(previous: CacheManifest, config: CacheConfig) -> str:
    """What the user should know where the cache goes on with other batches; else empty."""
    before, now = previous.config.get(_ROUNDING), deciding_settings(config)[_ROUNDING]
    if before == now:
        return ""
    return (
        f"it was begun with batch_size={before}, and goes on with {now}: last bits of activations "
        "may differ from those of a cache without an interruption"
    )


def whole_shards(folder: Path, entries: tuple[ShardEntry, ...]) -> dict[int, ShardEntry]:
    """The shards, by number, that are there with the content that was written."""
    return {
        index: entry
        for index, entry in enumerate(entries)
        if (folder / entry.file).is_file() and sha256_file(folder / entry.file) == entry.sha256
    }


def require_same_corpus(folder: Path, previous: CacheManifest, corpus: Corpus) -> None:
    """Raise InputError unless the corpus is the one that the cache was begun with."""
    if corpus.fingerprint != previous.corpus.fingerprint:
        raise changed_corpus(folder, corpus.dataset)


def changed_corpus(folder: Path, dataset: str) -> InputError:
    """The error about a corpus that has changed."""
    return InputError(
        f"the content of {dataset} has changed since {folder} was begun; give another --out, or "
        "the text as it was"
    )


def of_corpus(manifest: CacheManifest, corpus: Corpus) -> CacheManifest:
    """The manifest of an unfinished cache for a corpus that has changed since it was begun.

    What has not been read yet may change, as when a row that ended the command is mended; so the
    caller must compare the contexts of every shard that is kept with those of the corpus.
    """
    entry = dataclasses.replace(manifest.corpus, fingerprint=corpus.fingerprint, parts=corpus.parts)
    return dataclasses.replace(manifest, corpus=entry)


def holds_contexts(path: Path, content: ShardContent) -> bool:
    """Whether a shard is of the contexts of this content, which need have no activations."""
    shard = Shard(path)
    return all(
        shard.shape(name) == tensor.shape and torch.equal(shard.tensor(name), tensor)
        for name, tensor in content.tensors().items()
    )


def require_same_model(folder: Path, previous: CacheManifest, model: LanguageModel) -> None:
    """Raise InputError unless weights and tokenizer are those that the cache was begun with."""
    for what, before, now in (
        ("weights", previous.weights_hash, model.weights_hash),
        ("tokenizer rules", previous.tokenizer_hash, model.tokenizer_hash),
        ("dtype", previous.model_dtype, model.dtype_name),
    ):
        if before != now:
            raise InputError(
                f"{model.name} has other {what} now than when {folder} was begun; give another "
                "--out, or the model as it was"
            )


@contextmanager
def only_writer(folder: Path) -> Generator[None]:
    """Hold the folder, made if missing, against other writers; InputError if there is one.

    What a killed writer left half-written is removed, and so is a folder in which no shard was ever
    written.
    """
    with hold_folder(folder):
        try:
            yield
        finally:
            content = {item.name for item in folder.iterdir() if not is_leftover(item)}
            if content == {MANIFEST} and _names_no_shard(folder):
                (folder / MANIFEST).unlink()


def _names_no_shard(folder: Path) -> bool:
    """Whether the manifest names none; those that it names may have been moved for a while."""
    return not read_manifest(folder).shards
