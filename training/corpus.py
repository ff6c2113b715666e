"""Where documents come from: local files, texts that `sparsteer fetch` brings, hub data sets."""

import glob
import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from ..sae.errors import InputError
from ..sae.fetch import fetch
from ..sae.files import nearest, sha256_file
from .documents import COMPRESSIONS, FORMATS, Row, file_format, library, read_texts, text_of
from .prompt_sides import side_of

FETCHED_FIELDS = {
    "news": "text",
    "commons": "text",
    "healthtweets": "text",
    "rtp-prompts": "prompt",
    "instructions": "instruction+output",
}
"""The names that are corpora among those `sparsteer fetch` knows, with the field of the text."""

_PROMPTS = "rtp-prompts"

OPEN_PARTS = 8
"""Files (or hub shards) read in turn; so many are open at a time."""

BUFFER_CHARACTERS = 128_000_000
"""The shuffle buffer holds no more text than this, however many documents it may hold."""

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")


class Document(NamedTuple):
    """One text and its number in the corpus, which `Corpus` explains."""

    number: int
    text: str


@dataclass(frozen=True)
class Corpus:
    """The parts of a corpus (files, or shards of a hub data set) and what identifies their content.

    Document r of part p has the number r * len(parts) + p: in a corpus of one file, its row.
    """

    dataset: str
    """What the user asked for."""
    fingerprint: str
    """Of local files, the SHA-256 of the content; of a hub data set, its name and revision."""
    revision: str | None
    """Commit of a hub data set; None for local files."""
    parts: tuple[str, ...]
    """Names of the parts in their order: paths, or shards of the hub data set."""
    read_part: Callable[[int], Iterator[str]]
    """The texts of a part in order, with an empty one where a row has no text."""

    def documents(self, *, seed: int, shuffle_buffer: int) -> Iterator[Document]:
        """Every document once, empty ones included, in an order that only `seed` decides.

        Several parts are read in turn, a few at a time, in random order; the next document is then
        drawn from a buffer of `shuffle_buffer` documents. A buffer of 1 keeps the parts' order.
        """
        rng = random.Random(seed)
        order = list(range(len(self.parts)))
        if shuffle_buffer > 1:
            rng.shuffle(order)
        return _drawn(_in_turn(self._part(part) for part in order), rng, shuffle_buffer)

    def _part(self, part: int) -> Iterator[Document]:
        for row, text in enumerate(self.read_part(part)):
            yield Document(row * len(self.parts) + part, text)


def open_corpus(
    dataset: str,
    *,
    text_field: str | None = None,
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Corpus:
    """Find the corpus a user names: a fetched name, a local file, folder or pattern, or the hub's.

    A fetched name wins over a file of that name (write `./news` for the file). `split`, `subset`
    and `revision` are for hub data sets; `revision` pins the commit, as `NAME@REVISION` does.
    `progress` is told of steps that take time.

    Raises:
        InputError: nothing is found under that name, or it cannot be read; the message says what
            is near, and which flag to change.
        FetchError: a fetched name is not in the cache yet and cannot be brought.
    """
    fields = tuple((text_field or FETCHED_FIELDS.get(dataset, "text")).split("+"))
    if dataset in FETCHED_FIELDS:
        files, folder = [fetch(dataset, progress=progress)], None
    else:
        files, folder = _local_files(dataset)
    if not files:
        return _hub_corpus(dataset, fields, split, subset, revision)
    if split != "train" or subset is not None:
        raise InputError(
            f"{dataset} is local, and only a hub data set has splits and subsets; "
            "leave --split and --subset out"
        )
    if dataset == _PROMPTS:
        return _tuning_prompts(files[0], fields)
    return Corpus(
        dataset=dataset,
        fingerprint=_fingerprint(files),
        revision=None,
        parts=tuple(str(file.relative_to(folder) if folder else file) for file in files),
        read_part=lambda part: read_texts(files[part], fields),
    )


def _tuning_prompts(file: Path, fields: tuple[str, ...]) -> Corpus:
    """The prompts that toxicity is not reported on; the others have no text here."""
    if fields != (FETCHED_FIELDS[_PROMPTS],):
        raise InputError(
            f"{_PROMPTS} is read by its prompts, which decide on which side they are; leave "
            "--text-field out"
        )
    return Corpus(
        dataset=_PROMPTS,
        fingerprint=f"{_fingerprint([file])}, tuning side",
        revision=None,
        parts=(str(file),),
        read_part=lambda part: (
            text if side_of(text) == "tuning" else "" for text in read_texts(file, fields)
        ),
    )


def _local_files(dataset: str) -> tuple[list[Path], Path | None]:
    """The files that a path or pattern names, and the folder if it is one; none may be meant."""
    path = Path(dataset).expanduser()
    if path.is_dir():
        found = (item for item in path.rglob("*") if item.is_file() and file_format(item))
        files = sorted(item for item in found if not _hidden(item.relative_to(path)))
        if not files:
            raise InputError(f"the folder {dataset} has no file ending in {_endings()}; add some")
        return files, path
    files = [path] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    for file in files:
        if file_format(file) is None or not file.is_file():
            raise InputError(f"{file} is not a file ending in {_endings()}; give one of these")
    if not files and _looks_local(dataset):
        raise InputError(f"there is no file {dataset}; {_did_you_mean(path)}")
    return files, None


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _looks_local(dataset: str) -> bool:
    return (
        file_format(Path(dataset)) is not None
        or dataset.startswith((".", "/", "~"))
        or _HUB_NAME.fullmatch(dataset) is None
    )


def _did_you_mean(path: Path) -> str:
    """The remedy for a path that is not there."""
    parent = path.parent
    if not parent.is_dir():
        return f"there is no folder {parent} either; check the path"
    near = nearest(path.name, (item.name for item in parent.iterdir()))
    return f"did you mean {' or '.join(near)}?" if near else "check the path"


def _endings() -> str:
    return f"{', '.join(FORMATS)} (all but .parquet also with {', '.join(COMPRESSIONS)})"


def _fingerprint(files: list[Path]) -> str:
    try:
        digests = [sha256_file(file) for file in files]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror})") from None
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _hub_corpus(
    dataset: str, fields: tuple[str, ...], split: str, subset: str | None, revision: str | None
) -> Corpus:
    match = _HUB_NAME.fullmatch(dataset)
    assert match is not None  # _looks_local has seen to it
    name = match["name"]
    commit = _hub_commit(dataset, name, revision or match["revision"])
    try:
        stream = library("datasets").load_dataset(
            name, subset, split=split, streaming=True, revision=commit
        )
    except ValueError as error:
        # datasets lists the splits and subsets that there are.
        raise InputError(
            f"{name} does not open with split {split!r} and subset {subset!r}: "
            f"{' '.join(str(error).split())}; choose with --split and --subset"
        ) from None
    n_shards = cast(int, stream.num_shards)
    return Corpus(
        dataset=dataset,
        fingerprint=f"{name}@{commit}",
        revision=commit,
        parts=tuple(f"{name}, shard {shard}" for shard in range(n_shards)),
        read_part=lambda part: _hub_texts(stream, f"{name}, shard {part}", part, fields),
    )


def _hub_texts(stream: Any, where: str, shard: int, fields: tuple[str, ...]) -> Iterator[str]:
    number = 0
    try:
        for number, row in enumerate(
            cast(Iterable[Row], stream.shard(num_shards=stream.num_shards, index=shard)), start=1
        ):
            yield text_of(row, fields, f"{where}, row {number}")
    except InputError:
        raise
    except Exception as error:  # whichever of its HTTP client's and readers' many errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{where} stopped giving rows after {number:,} ({reason}); give the same command again"
        ) from error


def _hub_commit(dataset: str, name: str, revision: str | None) -> str:
    """The commit that a hub data set stands at, which pins its content."""
    try:
        info = library("huggingface_hub").HfApi().dataset_info(name, revision=revision)
    except Exception as error:  # whichever of its HTTP client's many errors: the name leads nowhere
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{dataset} is neither a file or folder here, nor a fetched name "
            f"({', '.join(FETCHED_FIELDS)}), nor a data set that the hub gives ({reason}); "
            f"{_nearest_here(name)}"
        ) from None
    return cast(str, info.sha)


def _nearest_here(name: str) -> str:
    path = Path(name)
    siblings = [str(item) for item in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(name, [*FETCHED_FIELDS, *siblings])
    return f"did you mean {' or '.join(near)}?" if near else "check the name, or give a local file"


def _in_turn(parts: Iterator[Iterator[Document]]) -> Iterator[Document]:
    """One document of each open part after the other; a part that ends makes room for the next."""
    open_parts = list(islice(parts, OPEN_PARTS))
    while open_parts:
        still_open: list[Iterator[Document]] = []
        for part in open_parts:
            document = next(part, None)
            if document is not None:
                yield document
                still_open.append(part)
        open_parts = still_open + list(islice(parts, OPEN_PARTS - len(still_open)))


def _drawn(documents: Iterator[Document], rng: random.Random, size: int) -> Iterator[Document]:
    """Draw the next document from a buffer that is kept full."""
    buffer: list[Document] = []
    characters = 0
    for document in documents:
        buffer.append(document)
        characters += len(document.text)
        while len(buffer) >= size or characters > BUFFER_CHARACTERS:
            drawn = _take(buffer, rng)
            characters -= len(drawn.text)
            yield drawn
    while buffer:
        yield _take(buffer, rng)


def _take(buffer: list[Document], rng: random.Random) -> Document:
    # random() is the one method whose sequence Python promises to keep for a seed.
    place = int(rng.random() * len(buffer))
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()
