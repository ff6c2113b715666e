"""Where documents come from: local files, texts that `sparsteer fetch` brings, hub data sets."""

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import cast

from ...sae.common.errors import InputError
from ...sae.common.mixtures import Share, shares_of
from ...sae.fetching.fetch import fetch
from .document_order import OPEN_PARTS, Document, PartsOf, Source, drawn, in_turn, mixed
from .documents import SKIP, BadRow, document_of, read_texts
from .hub_rows import hub_commit, hub_rows
from .prompt_sides import side_of
from .row_files.formats import file_format, library
from .row_files.paths import find_files, missing
from .row_files.row_file import columns_of, fingerprint
from .row_files.row_text import TextFields, fields_of_columns, fields_of_texts

__all__ = ["FETCHED_FIELDS", "OPEN_PARTS", "Corpus", "Document", "open_corpus"]

FETCHED_FIELDS = {
    "news": "text",
    "commons": "text",
    "healthtweets": "text",
    "rtp-prompts": "prompt",
    "instructions": "instruction+output",
    "encyclopedia": "extract",
    "chitchat": "text",
    "cookbook": "text",
    "haydock": "text",
    "aws-docs": "text",
    "python-code": "text",
}
"""The names that are corpora among those `sparsteer fetch` knows, with the field of the text."""

_PROMPTS = "rtp-prompts"

_NO_COMMIT = "-"
"""Among the commits of a mixture: of a data set that has none."""

BUFFER_CHARACTERS = 128_000_000
"""The shuffle buffer holds no more text than this, however many documents it may hold."""

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Corpus:
    """The parts of a corpus (files, or shards of a hub data set) and what identifies their content.

    Document r of part p has the number r * len(parts) + p: in a corpus of one file, its row.
    """

    dataset: str
    """What the user asked for."""
    fingerprint: str
    """Of local files, the SHA-256 of the content; of a hub data set, its name and revision; of a
    mixture, those of its data sets."""
    revision: str | None
    """Commit of a hub data set; None for local files; of a mixture with a hub data set, the words
    for each, a hyphen for none."""
    parts: tuple[str, ...]
    """Names of the parts in their order: paths, or shards of the hub data set."""
    read_part: Callable[[int], Iterator[str]]
    """The texts of a part in order, with an empty one where a row has no text; a `BadRow` where
    something is wrong with it and such rows are passed over."""
    mixture: tuple[PartsOf, ...] = ()
    """The data sets of a mixture, whose parts lie one after the other."""

    def documents(
        self,
        *,
        seed: int,
        shuffle_buffer: int,
        ended: Callable[[str], None] = lambda sentence: None,
    ) -> Iterator[Document]:
        """Every document once, empty ones included, in an order that only `seed` decides.

        Several parts are read in turn, a few at a time, in random order; the next document is then
        drawn from a buffer of `shuffle_buffer` documents. A buffer of 1 keeps the parts' order.

        Each data set of a mixture is read so, with a buffer and an order of its own, and the next
        document is of the one that has given the least text for its weight. `ended` is told in a
        sentence where one ends before the others.
        """
        if not self.mixture:
            everything = range(len(self.parts))
            return self._ordered(everything, random.Random(seed), shuffle_buffer, BUFFER_CHARACTERS)
        most = BUFFER_CHARACTERS // len(self.mixture)
        sources = [
            Source(
                found.name,
                found.weight,
                self._ordered(found.parts, random.Random(f"{seed}/{place}"), shuffle_buffer, most),
            )
            for place, found in enumerate(self.mixture)
        ]
        return mixed(sources, ended)

    def _ordered(
        self, parts: range, rng: random.Random, shuffle_buffer: int, most_characters: int
    ) -> Iterator[Document]:
        order = list(parts)
        if shuffle_buffer > 1:
            rng.shuffle(order)
        in_parts = in_turn(self._part(part) for part in order)
        return drawn(in_parts, rng, shuffle_buffer, most_characters)

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
    chat: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> Corpus:
    """Find the corpus a user names: a fetched name, a local file, folder or pattern, or the hub's.

    A fetched name wins over a file of that name (write `./news` for the file). `split` is for
    folders and hub data sets, `subset` and `revision` for the latter; `revision` pins the commit,
    as `NAME@REVISION` does. Without `text_field` it is `text`, or those of the layout that the
    first rows have. With `skip_bad_rows` a row that cannot be read or holds no text is a `BadRow`;
    else an error about one ends with `skip_remedy`. With `chat` a row is a `ChatText`.
    `progress` is told of steps that take time, of a layout that was detected, and of files of a
    folder that are not read.

    Several with weights, `news:3 chat:1`, are one corpus whose text is of each as its weight says;
    `text_field`, `split` and `subset` are then for each, `revision` is that of such a corpus.

    Raises:
        InputError: nothing is found under that name, or it cannot be read; the message says what
            is near, and which flag to change.
        FetchError: a fetched name is not in the cache yet and cannot be brought.
    """

    def find(name: str, revision: str | None, say: Callable[[str], None]) -> Corpus:
        return _open_one(
            name, text_field, split, subset, revision, skip_bad_rows, skip_remedy, chat, say
        )

    shares = shares_of(dataset)
    if not shares:
        return find(dataset, revision, progress)
    commits = revision.split() if revision else [_NO_COMMIT] * len(shares)
    corpora = [
        find(
            share.name,
            None if commit == _NO_COMMIT else commit,
            lambda message, name=share.name: progress(f"{name}: {message}"),
        )
        for share, commit in zip(shares, commits, strict=True)
    ]
    return _mixture(dataset, shares, corpora)


def _mixture(dataset: str, shares: Sequence[Share], corpora: Sequence[Corpus]) -> Corpus:
    """One corpus of several, whose parts lie one after the other."""
    starts = list(accumulate((len(corpus.parts) for corpus in corpora), initial=0))
    reads = [
        (corpus.read_part, number) for corpus in corpora for number in range(len(corpus.parts))
    ]
    commits = [corpus.revision or _NO_COMMIT for corpus in corpora]
    identity = "\n".join(
        f"{share.weight} {corpus.fingerprint}"
        for share, corpus in zip(shares, corpora, strict=True)
    )

    def read(part: int) -> Iterator[str]:
        read_part, number = reads[part]
        return read_part(number)

    return Corpus(
        dataset=dataset,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        revision=None if set(commits) == {_NO_COMMIT} else " ".join(commits),
        parts=tuple(name for corpus in corpora for name in corpus.parts),
        read_part=read,
        mixture=tuple(
            PartsOf(share.name, share.weight, range(start, end))
            for share, start, end in zip(shares, starts, starts[1:], strict=False)
        ),
    )


def _open_one(
    dataset: str,
    text_field: str | None,
    split: str,
    subset: str | None,
    revision: str | None,
    skip_bad_rows: bool,
    skip_remedy: str,
    chat: bool,
    progress: Callable[[str], None],
) -> Corpus:
    text_field = text_field or FETCHED_FIELDS.get(dataset)
    if dataset in FETCHED_FIELDS:
        files, folder, names = [fetch(dataset, progress=progress)], None, None
    else:
        found = find_files(dataset, split=split, say=progress)
        files, folder, names = found.files, found.folder, found.names
    if not files:
        if _looks_local(dataset):
            raise missing(dataset)
        return _hub_corpus(
            dataset, text_field, split, subset, revision, skip_bad_rows, chat, progress
        )
    if subset is not None or (split != "train" and folder is None):
        raise InputError(
            f"{dataset} is local, and only a hub data set has subsets, or a folder splits; leave "
            "--split and --subset out"
        )
    if dataset == _PROMPTS:
        _require_turns(dataset, TextFields("text", ("prompt",)), chat=chat)
        return _tuning_prompts(files[0], text_field or "")
    fields = fields_of_texts(files, text_field, dataset)
    _tell(fields, progress)
    _require_turns(dataset, fields, chat=chat)
    return Corpus(
        dataset=dataset,
        fingerprint=fingerprint(files),
        revision=None,
        parts=names or (str(files[0]),),
        read_part=lambda part: read_texts(
            files[part], fields, chat=chat, skip_bad_rows=skip_bad_rows, remedy=skip_remedy
        ),
    )


def _tell(fields: TextFields, say: Callable[[str], None]) -> None:
    """Say a layout that was detected, unless it is the plain one."""
    if fields.layout not in ("given", "text"):
        say(f"the text of a row is {' + '.join(fields.fields)} (layout {fields.layout}, detected)")


def _require_turns(dataset: str, fields: TextFields, *, chat: bool) -> None:
    """Raise an InputError if rows in turns are asked for and these have plain text alone."""
    if chat and fields.layout == "text":
        raise InputError(
            f"chat is on, but {dataset} has plain text and no turns; leave it out, or choose a "
            "field of messages with --text-field",
            field="chat",
        )


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
    chat: bool,
    say: Callable[[str], None],
) -> Corpus:
    match = _HUB_NAME.fullmatch(dataset)
    assert match is not None  # _looks_local has seen to it
    name = match["name"]
    commit = hub_commit(dataset, name, revision or match["revision"], FETCHED_FIELDS)
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
        columns = [name for row in hub_rows(stream.take(1), name) for name in columns_of(row)]
    fields = fields_of_columns(dict.fromkeys(columns, 1), text_field, name)
    _tell(fields, say)
    _require_turns(name, fields, chat=chat)

    def read(part: int) -> Iterator[str]:
        where = f"{name}, shard {part}"
        rows = hub_rows(stream.shard(num_shards=n_shards, index=part), where)
        for number, row in enumerate(rows, start=1):
            problem = fields.problem(row, lambda row=row: columns_of(row))
            text = BadRow(problem) if problem else document_of(fields, row, chat=chat)
            if isinstance(text, BadRow):
                problem = f"{where}, row {number}: {text.problem}"
                if not skip_bad_rows:
                    mended = "choose the field with --text-field"
                    raise InputError(f"{problem}; {mended}, or {SKIP}")
                text = BadRow(problem)
            yield text

    return Corpus(
        dataset=dataset,
        fingerprint=f"{name}@{commit}",
        revision=commit,
        parts=tuple(f"{name}, shard {shard}" for shard in range(n_shards)),
        read_part=read,
    )
