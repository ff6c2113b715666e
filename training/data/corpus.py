"""Where documents come from: local files, texts that `sparsteer fetch` brings, hub data sets."""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast

from ...sae.common.errors import InputError
from ...sae.common.files import nearest
from ...sae.fetching.fetch import fetch
from .documents import SKIP, BadRow, read_texts
from .prompt_sides import side_of
from .row_files.formats import file_format, library
from .row_files.paths import find_files, missing
from .row_files.row_file import Row, columns_of, fingerprint
from .row_files.row_text import TextFields, fields_of_columns, fields_of_texts

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
    """The texts of a part in order, with an empty one where a row has no text; a `BadRow` where
    something is wrong with it and such rows are passed over."""

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
    skip_bad_rows: bool = False,
    skip_remedy: str = SKIP,
    progress: Callable[[str], None] = lambda message: None,
) -> Corpus:
    """Find the corpus a user names: a fetched name, a local file, folder or pattern, or the hub's.

    A fetched name wins over a file of that name (write `./news` for the file). `split` is for
    folders and hub data sets, `subset` and `revision` for the latter; `revision` pins the commit,
    as `NAME@REVISION` does. Without `text_field` it is `text`, or those of the layout that the
    first rows have. With `skip_bad_rows` a row that cannot be read or holds no text is a `BadRow`;
    else an error about one ends with `skip_remedy`.
    `progress` is told of steps that take time, of a layout that was detected, and of files of a
    folder that are not read.

    Raises:
        InputError: nothing is found under that name, or it cannot be read; the message says what
            is near, and which flag to change.
        FetchError: a fetched name is not in the cache yet and cannot be brought.
    """
    text_field = text_field or FETCHED_FIELDS.get(dataset)
    if dataset in FETCHED_FIELDS:
        files, folder, names = [fetch(dataset, progress=progress)], None, None
    else:
        found = find_files(dataset, split=split, say=progress)
        files, folder, names = found.files, found.folder, found.names
    if not files:
        if _looks_local(dataset):
            raise missing(dataset)
        return _hub_corpus(dataset, text_field, split, subset, revision, skip_bad_rows, progress)
    if subset is not None or (split != "train" and folder is None):
        raise InputError(
            f"{dataset} is local, and only a hub data set has subsets, or a folder splits; leave "
            "--split and --subset out"
        )
    if dataset == _PROMPTS:
        return _tuning_prompts(files[0], text_field or "")
    fields = fields_of_texts(files, text_field, dataset)
    _tell(fields, progress)
    return Corpus(
        dataset=dataset,
        fingerprint=fingerprint(files),
        revision=None,
        parts=names or (str(files[0]),),
        read_part=lambda part: read_texts(
            files[part], fields, skip_bad_rows=skip_bad_rows, remedy=skip_remedy
        ),
    )


def _tell(fields: TextFields, say: Callable[[str], None]) -> None:
    """Say a layout that was detected, unless it is the plain one."""
    if fields.layout not in ("given", "text"):
        say(f"the text of a row is {' + '.join(fields.fields)} (layout {fields.layout}, detected)")


def _tuning_prompts(file: Path, text_field: str) -> Corpus:
    """The prompts that toxicity is not reported on; the others have no text here."""
    if text_field != FETCHED_FIELDS[_PROMPTS]:
        raise InputError(
            f"{_PROMPTS} is read by its prompts, which decide on which side they are; leave "
            "--text-field out"
        )
    fields = TextFields("given", (text_field,))
    return Corpus(
        dataset=_PROMPTS,
        fingerprint=f"{fingerprint([file])}, tuning side",
        revision=None,
        parts=(str(file),),
        read_part=lambda part: (
            text if side_of(text) == "tuning" else "" for text in read_texts(file, fields)
        ),
    )


def _looks_local(dataset: str) -> bool:
    return (
        file_format(Path(dataset)) is not None
        or dataset.startswith((".", "/", "~"))
        or _HUB_NAME.fullmatch(dataset) is None
    )


def _hub_corpus(
    dataset: str,
    text_field: str | None,
    split: str,
    subset: str | None,
    revision: str | None,
    skip_bad_rows: bool,
    say: Callable[[str], None],
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
    columns: Iterable[str] = cast(list[str] | None, stream.column_names) or ()
    if not columns and text_field is None:
        columns = [name for row in _hub_rows(stream.take(1), name) for name in columns_of(row)]
    fields = fields_of_columns(dict.fromkeys(columns, 1), text_field, name)
    _tell(fields, say)

    def read(part: int) -> Iterator[str]:
        where = f"{name}, shard {part}"
        rows = _hub_rows(stream.shard(num_shards=n_shards, index=part), where)
        for number, row in enumerate(rows, start=1):
            problem = fields.problem(row, lambda row=row: columns_of(row))
            if problem and not skip_bad_rows:
                remedy = f"choose the field with --text-field, or {SKIP}"
                raise InputError(f"{where}, row {number}: {problem}; {remedy}")
            yield (
                BadRow(f"{where}, row {number}: {problem}") if problem else fields.text_of(row).text
            )

    return Corpus(
        dataset=dataset,
        fingerprint=f"{name}@{commit}",
        revision=commit,
        parts=tuple(f"{name}, shard {shard}" for shard in range(n_shards)),
        read_part=read,
    )


def _hub_rows(stream: Iterable[Row], where: str) -> Iterator[Row]:
    n_read = 0
    try:
        for row in stream:
            n_read += 1
            yield row
    except Exception as error:  # whichever of its HTTP client's and readers' many errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{where} stopped giving rows after {n_read:,} ({reason}); give the same command again"
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
