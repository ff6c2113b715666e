"""Files of rows in every format: the same rows in, and out again as they were."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae.common.errors import InputError
from sparsteer.training.data.row_files import json_files
from sparsteer.training.data.row_files.formats import library
from sparsteer.training.data.row_files.opening import open_rows
from sparsteer.training.data.row_files.row_file import Column

TEXTS = ["one", 'quoted "two", and\nmore ☃', "  three", "4", "a\u2028b"]
ROWS = [{"text": text, "n": number} for number, text in enumerate(TEXTS)]
ADDED = {"score": Column("double", [0.5, None, 1.0, 0.25, None])}
SCORES = [0.5, None, 1.0, 0.25, None]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["text", "n"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def schema() -> Any:
    return library("pyarrow").schema([("text", "string"), ("n", "int64")])


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """With a map, and two columns of one name, which nobody reads."""
    arrow = library("pyarrow")
    own = arrow.Table.from_pylist(rows, schema())
    odd = arrow.array([[("k", "v")]] * len(rows), arrow.map_(arrow.string(), arrow.string()))
    own = own.append_column("m", odd).append_column("m", own["n"])
    sink = io.BytesIO()
    library("pyarrow.parquet").write_table(own, sink, row_group_size=2)
    return sink.getvalue()


def arrow_of(kind: str) -> Callable[[list[dict[str, Any]]], bytes]:
    def content(rows: list[dict[str, Any]]) -> bytes:
        own = library("pyarrow").Table.from_pylist(rows, schema())
        sink = io.BytesIO()
        with getattr(library("pyarrow").ipc, kind)(sink, own.schema) as writer:
            writer.write_table(own, max_chunksize=2)
        return sink.getvalue()

    return content


def zst(content: bytes) -> bytes:
    packed = library("pyarrow").Codec("zstd").compress(content, asbytes=True)
    assert isinstance(packed, bytes)
    return packed


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "a.jsonl": lines,
    "a.ndjson": lines,
    "odd [name] *.json": lambda rows: json.dumps(rows, indent=1, ensure_ascii=False).encode(),
    "a.csv": table,
    "a.tsv": lambda rows: table(rows, "\t"),
    "a.parquet": parquet,
    "a.arrow": arrow_of("new_stream"),
    "a.feather": arrow_of("new_file"),
    "a.jsonl.gz": lambda rows: gzip.compress(lines(rows)),
    "a.csv.bz2": lambda rows: bz2.compress(table(rows)),
    "a.json.xz": lambda rows: lzma.compress(lines(rows)),
    "a.jsonl.zst": lambda rows: zst(lines(rows)),
    "packed though not named so.jsonl": lambda rows: gzip.compress(lines(rows)),
    "named so though not packed.jsonl.zst": lines,
}


@pytest.mark.parametrize("name", FORMATS)
def test_rows_come_out_as_they_went_in(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FORMATS[name](ROWS))
    file = open_rows(path, "FILE")
    overview = file.overview()
    assert overview.n_rows == len(ROWS)
    assert {"text", "n"} <= set(overview.columns)
    assert [row["text"] for row in file.rows(fields=("text",))] == TEXTS
    assert [row["text"] for row in file.rows(2, ("text",))] == TEXTS[2:]
    assert list(file.numbers("n")) == [0, 1, 2, 3, 4]

    out = tmp_path / f"scored {name}"
    file.require_same_kind(out)
    file.write(out, added=ADDED)
    again = open_rows(out, "FILE")
    assert [row["text"] for row in again.rows(fields=("text",))] == TEXTS
    assert list(again.numbers("score")) == SCORES

    chosen = tmp_path / f"chosen {name}"
    file.write(chosen, chosen=[0, 3, 4])
    assert list(open_rows(chosen, "FILE").numbers("n")) == [0, 3, 4]
    assert type(open_rows(chosen, "FILE")) is type(file)


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_lines_of_a_table_stay_as_they_are(end: str, tmp_path: Path) -> None:
    rows = ['a,"text"', '"1", one', '2,"two\nlines"', "", "3,three "]
    path, out = tmp_path / "a.csv", tmp_path / "b.csv"
    path.write_text(end.join(rows), newline="")
    open_rows(path, "FILE").write(out, added={"s": Column("int64", [7, None, 9])})
    wanted = ['a,"text",s', '"1", one,7', '2,"two\nlines",', "3,three ,9"]
    assert out.read_bytes().decode() == end.join(wanted) + "\n"


def test_lines_of_text_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n  \ntwo\x0cstill two")
    file = open_rows(path, "--target")
    assert [row["text"] for row in file.rows()] == ["one", "two\x0cstill two"]
    file.require_same_kind(tmp_path / "b.jsonl")
    file.write(tmp_path / "b.jsonl", chosen=[1])
    assert json.loads((tmp_path / "b.jsonl").read_bytes()) == {"text": "two\x0cstill two"}
    with pytest.raises(InputError, match=r"another format .*ends in \.jsonl or"):
        file.require_same_kind(tmp_path / "b.parquet")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.arrow"])
def test_a_folder_or_pattern_is_read_as_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = name.removeprefix("a")
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, rows in enumerate([ROWS[:2], [], ROWS[2:]]):
        (folder / f"part-{number}{end}").write_bytes(FORMATS[name](rows))
    monkeypatch.chdir(tmp_path)
    for asked in ("shards", f"shards/part-*{end}", str(folder)):
        file = open_rows(asked, "FILE")
        assert file.overview().n_rows == len(ROWS)
        assert [row["text"] for row in file.rows(fields=("text",))] == TEXTS
        file.write(tmp_path / f"out{end}", added=ADDED)
        assert list(open_rows(tmp_path / f"out{end}", "FILE").numbers("score")) == SCORES
    with pytest.raises(InputError, match="lies in the folder that is read"):
        open_rows("shards", "FILE").require_same_kind(folder / f"out{end}")
    (folder / "other.txt").write_text("one")
    with pytest.raises(InputError, match="several formats"):
        open_rows("shards", "FILE")


def test_what_datasets_saved_is_read(tmp_path: Path) -> None:
    datasets = library("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    file = open_rows(tmp_path / "saved", "FILE")
    assert [row["text"] for row in file.rows()] == TEXTS
    file.write(tmp_path / "scored.arrow", added=ADDED)
    again = datasets.Dataset.from_file(str(tmp_path / "scored.arrow"))
    assert again["text"] == TEXTS and again["score"] == SCORES


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=3), values, max_size=3), max_size=6),
    indent=st.sampled_from([None, 0, 2]),
    chunk=st.integers(1, 40),
)
def test_an_array_is_read_an_entry_at_a_time(
    rows: list[dict[str, Any]], indent: int | None, chunk: int, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(f"\n {json.dumps(rows, indent=indent)} \n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "_CHUNK", chunk)
        assert list(open_rows(path, "FILE").rows()) == rows


@pytest.mark.parametrize(
    "text",
    ["[", "[{}", "[{},", "[{},]", "[,{}]", "[{} {}]", "[{}]{}", "[{}] x", '[{"a": 1'],
)
def test_a_broken_array_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a\.json.* (is not valid JSON|goes on behind)"):
        list(open_rows(path, "FILE").rows())


def test_broken_rows_are_named_or_left_out(tmp_path: Path) -> None:
    for name, content in (
        ("a.jsonl", b'{"t": 1}\n{"t": \n{"t": 2}\n[3]\n{"t": "\xff"}\n'),
        ("a.csv", b't\n1\n2,3\n"4"4\n5,6\n2\n'),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"so it is with line \d, line \d; .*--skip-bad-rows"):
            open_rows(path, "FILE").overview()
        file = open_rows(path, "FILE", skip_bad_rows=True)
        overview = file.overview()
        assert overview.n_rows == 2 and len(overview.excluded) == 3
        assert [float(row["t"]) for row in file.rows()] == [1, 2]
        out = tmp_path / f"b{path.suffix}"
        file.write(out, added={"s": Column("int64", [8, 9])})
        again = open_rows(out, "FILE")
        assert list(again.numbers("t")) == [1, 2] and list(again.numbers("s")) == [8, 9]


def test_a_column_that_is_read_has_one_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(ROWS))
    with pytest.raises(InputError, match="several columns 'm'"):
        list(open_rows(path, "FILE").rows(fields=("m",)))
