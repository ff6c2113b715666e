"""Documents of local files: every format, and what damaged ones say."""

import bz2
import gzip
import json
import lzma
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae.common.errors import InputError
from sparsteer.training.data.documents import read_texts
from sparsteer.training.data.row_files import text_files
from sparsteer.training.data.row_files.formats import file_format, library
from sparsteer.training.data.row_files.row_text import fields_of_columns
from sparsteer.training.data.row_files.text_files import PIECE_CHARACTERS, pieces

TEXTS = ["one", "", "three \u2028 with\na line\r\nend", "snow ☃", "  indented"]


def jsonl(rows: list[object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_parquet(path: Path, columns: dict[str, list[object]]) -> None:
    library("pyarrow.parquet").write_table(
        library("pyarrow").table(columns), path, row_group_size=2
    )


def texts(path: Path, *fields: str) -> list[str]:
    return list(read_texts(path, fields_of_columns({}, "+".join(fields or ("text",)), "")))


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
@pytest.mark.parametrize("array", [False, True], ids=["lines", "array"])
def test_json_texts_come_back_unchanged(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes], array: bool
) -> None:
    rows: list[object] = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    path = tmp_path / f"odd [name] *.json{'' if array else 'l'}{suffix}"
    path.write_bytes(compress(json.dumps(rows, indent=1).encode() if array else jsonl(rows)))
    assert texts(path) == TEXTS


def test_null_is_a_document_without_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([{"text": None}, {"text": "b"}]) + b"\n  \n" + jsonl([{"text": "c"}]))
    assert texts(path) == ["", "b", "c"]


def test_fields_are_joined_by_a_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        jsonl([{"q": "Why?", "a": "So."}, {"q": "", "a": "Yes."}, {"a": None, "q": "?"}])
    )
    assert texts(path, "q", "a") == ["Why?\n\nSo.", "Yes.", "?"]


def test_byte_order_mark_and_text_like_numbers_and_dates(tmp_path: Path) -> None:
    """What a JSON reader with inferred column types would change."""
    path = tmp_path / "a.jsonl"
    wanted = ["2020-01-01 00:00:00", "5", "null", '"quoted"']
    path.write_bytes(b"\xef\xbb\xbf" + jsonl([{"text": text} for text in wanted]))
    assert texts(path) == wanted


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(r'{"text": "half \ud800, whole \ud83d\ude00"}')
    assert texts(path) == ["half \ufffd, whole \U0001f600"]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, {"n": [1, 2, 3], "text": ["a", None, "c\n"]})
    assert texts(path) == ["a", "", "c\n"]


def test_reading_leaves_nothing_behind(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    (tmp_path / "a.txt").write_text("x")
    assert texts(tmp_path / "a.txt") == ["x"]
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "temporary"]
    assert os.listdir(temporary) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', ["a.jsonl, line 2", "not valid JSON"]),
        ("a.json", b'[{"text": "a"},]', ["a.json", "not valid JSON"]),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": 5}\n', ["line 3", "'text'", "5"]),
        ("a.jsonl", b'{"text": {"a": "b"}}\n', ["line 1", '{"a": "b"}']),
        ("a.jsonl", b'{"body": "a", "texts": "b", "id": 1}\n', ["'text'", "texts, body, id"]),
        ("a.jsonl", b"{}\n", ["no field at all"]),
        ("a.jsonl", b'"text"\n', ["line 1", '"text"', "object"]),
        ("a.json", b'["a", "b"]', ["entry 1", "object"]),
        ("a.jsonl", b'{"text": "a\xff"}\n', ["UTF-8", "0xff"]),
        ("a.txt", b"caf\xe9", ["UTF-8", "0xe9"]),
        ("a.txt", bytes(3 * PIECE_CHARACTERS), ["a.txt, line 1", "NUL"]),
        ("a.txt", b"one\n\ntw\0o\n", ["a.txt, line 3", "NUL"]),
        ("a.txt", "UTF-16".encode("utf-16-le"), ["a.txt, line 1", "NUL"]),
        ("a.csv", b"text\none\nt\0wo\n", ["a.csv, line 3", "NUL"]),
        ("a.txt.gz", gzip.compress(b"text " * 999, mtime=0)[:-9], ["a.txt.gz", "damaged"]),
        (
            "a.txt",
            gzip.compress(b"text " * 999, mtime=0)[:-9],
            ["compressed", "damaged", "a.txt.gz"],
        ),
        ("a.txt", b"\x1f\x8bno gzip", ["compressed", "damaged", "name it a.txt.gz"]),
        ("a.txt", bz2.compress(b"text " * 999)[:-9], ["compressed", "damaged", "a.txt.bz2"]),
        ("a.parquet", b"PAR1", ["a.parquet", "damaged"]),
    ],
)
def test_bad_content_is_named(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        texts(tmp_path / name)
    assert all(word in str(error.value) for word in [str(tmp_path), *words]), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"BZh", b"BZhang wrote\nthis", b"P*M, not a frame"])
def test_text_that_begins_nearly_as_compressed_data_is_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert texts(path) == [content.decode()]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.zst"])
@pytest.mark.parametrize("sizes", [(0,), (5,), (3, 70_000)])
def test_a_zst_that_begins_with_frames_to_skip(
    tmp_path: Path, name: str, sizes: tuple[int, ...]
) -> None:
    frames = [struct.pack("<II", 0x184D2A50 + n % 16, n) + b"#" * n for n in sizes]
    packed = library("pyarrow").Codec("zstd").compress(b"some text\n", asbytes=True)
    path = tmp_path / name
    path.write_bytes(b"".join(frames) + packed)
    assert texts(path) == ["some text\n"]
    path.write_bytes(b"".join(frames)[:-1] if sizes != (0,) else packed[:-1])
    with pytest.raises(InputError, match="damaged"):
        texts(path)


def test_parquet_without_the_field(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, {"content": ["a"], "n": [1]})
    with pytest.raises(InputError, match=r"no field 'contents'; its fields are content, n"):
        texts(path, "contents")
    with pytest.raises(InputError, match=r"row 1: the field 'n' holds 1 where text is needed"):
        texts(path, "n")


def test_text_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a title\n\n\na paragraph\n\nanother\n")
    assert texts(path) == ["a title\n\n\na paragraph\n\nanother\n"]
    path.write_text("")
    assert texts(path) == []


def test_long_text_file_is_divided_at_blank_lines(tmp_path: Path) -> None:
    paragraph = "word " * 200 + "\n\n"
    path = tmp_path / "a.txt"
    path.write_text(paragraph * 60)
    found = texts(path)
    assert "".join(found) == paragraph * 60
    assert len(found) == 60 // 17 + 1
    assert all(text.endswith("\n\n") for text in found)


@given(
    st.lists(
        st.text(alphabet="ab \n☃", min_size=1, max_size=30).flatmap(
            lambda text: st.integers(1, 9).map(lambda times: text * times)
        ),
        max_size=20,
    )
)
def test_pieces_lose_nothing_and_stay_short(lines: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "PIECE_CHARACTERS", 16)
        found = list(pieces(lines))
    assert "".join(found) == "".join(lines)
    assert all(0 < len(piece) <= 32 for piece in found)


def test_a_line_without_end_is_cut_at_spaces() -> None:
    line = "seven77 " * PIECE_CHARACTERS
    found = list(pieces([line]))
    assert "".join(found) == line
    assert all(piece.endswith(" ") and len(piece) <= 2 * PIECE_CHARACTERS for piece in found)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.jsonl", ".jsonl"),
        ("a.JSONL.GZ", ".jsonl"),
        ("a.json.xz", ".json"),
        ("a.b.txt.bz2", ".txt"),
        ("a.parquet", ".parquet"),
        ("a.parquet.gz", None),
        ("a.gz", None),
        ("a.csv", ".csv"),
        ("a.ndjson.zst", ".ndjson"),
        ("a.arrow.zst", None),
        ("jsonl", None),
    ],
)
def test_file_format(name: str, found: str | None) -> None:
    assert file_format(Path(name)) == found


def test_a_text_file_is_read_a_piece_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    content = "a line without an end " * 40 + "\n\n" + "short\n" * 30 + "x" * 200
    path.write_text(content)
    monkeypatch.setattr(text_files, "PIECE_CHARACTERS", 32)
    whole = list(pieces(content.splitlines(keepends=True)))
    assert "".join(whole) == content
    monkeypatch.setattr(text_files, "_CHUNK_CHARACTERS", 7)
    assert texts(path) == whole
