"""Files that show damage: JSON with a checksum of its own, records of files, checked lines."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae.common.checksums import (
    checked_line,
    read_checked_json,
    read_line,
    record_of,
    recorded_files,
    require_as_written,
    write_checked_json,
)
from sparsteer.sae.common.errors import InputError

from .test_files import JSON_VALUES

OBJECTS = st.dictionaries(
    st.text("abcé", max_size=3), JSON_VALUES | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES: dict[str, Any] = {
    "steps": 30,
    "seconds": 1.25e-07,
    "label": 'a "quoted" é\n',
    "nested": {"0.1": [0.1, -3, None, True]},
    "model": "some/model",
}


@given(OBJECTS)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_checked_json(path, values)
    assert read_checked_json(path, "file") == {"version": 2, **values}


def test_order_and_spaces_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_checked_json(path, {"numbers": {10: 1, 9: 2}, **VALUES})
    values = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(values.items()))))
    assert read_checked_json(path, "file")["numbers"] == {"10": 1, "9": 2}


def test_a_changed_bit_that_changes_the_content_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_checked_json(path, VALUES)
    whole = path.read_bytes()
    unnoticed: list[bytes] = []
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                read_checked_json(path, "file")
            except InputError:
                continue
            unnoticed.append(bytes(changed))
    # What is left means the same: 1.25e-07 and 1.25E-07.
    assert all(json.loads(changed) == json.loads(whole) for changed in unnoticed)
    assert len(unnoticed) <= 2


def test_an_earlier_version_is_taken_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for values in (VALUES, {"version": 1, **VALUES}):
        path.write_text(json.dumps(values))
        assert read_checked_json(path, "file") == values
        assert record_of(values, "a.bin") is None


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": None},
        {"sha256": 3},
        {"sha256": "0" * 64},
        {"version": 1},
        {"version": None},
        {"steps": 31},
        {"steps": float("inf")},
        {"seconds": 1.26e-07},
        {"more": 1},
    ],
    ids=str,
)
def test_a_change_is_found(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "a.json"
    write_checked_json(path, VALUES)
    text = json.dumps(json.loads(path.read_text()) | change).replace("Infinity", "1e999")
    path.write_text(text)
    with pytest.raises(InputError, match=r"the file .* has changed since it was written"):
        read_checked_json(path, "file")


def test_records_of_files(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)))
    values = {"version": 2, "files": recorded_files(tmp_path, ["a.bin"])}
    record = record_of(values, "a.bin")
    require_as_written(path, record, "restore it")
    path.write_bytes(bytes(range(255)) + b"\0")
    with pytest.raises(InputError, match=r"a\.bin has changed since it was written.*restore it"):
        require_as_written(path, record, "restore it")
    path.write_bytes(bytes(range(255)))
    with pytest.raises(InputError, match="has 255 bytes"):
        require_as_written(path, record, "restore it")
    with pytest.raises(InputError, match="not as many as were written"):
        require_as_written(path, record_of(values, "b.bin"), "restore it")
    path.unlink()
    for found in (record, None):
        with pytest.raises(InputError, match=r"a\.bin is missing; restore it"):
            require_as_written(path, found, "restore it")


def test_a_changed_bit_in_a_line_is_found() -> None:
    line = checked_line(VALUES)
    assert line.count("\n") == 1 and read_line(line) == VALUES
    source = random.Random(1)
    content, found = line.index('"crc32"'), 0
    for _ in range(200):
        place, bit = source.randrange(content), 1 << source.randrange(7)
        changed = line[:place] + chr(ord(line[place]) ^ bit) + line[place + 1 :]
        try:
            assert read_line(changed) == VALUES, "1.25E-07 and \\u00E9 mean the same"
        except ValueError:
            found += 1
    assert found > 190
    assert read_line(json.dumps(VALUES)) == VALUES, "an earlier version wrote no checksum"
    with pytest.raises(ValueError):
        read_line("[1]")
