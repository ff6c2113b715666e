"""The tables of compiled kernels, from made-up rows of compile_all.py."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def row(version: str, arch: int, kernel: str, **changed: Any) -> dict[str, Any]:
    same = {"variant": "int32", "registers": 40, "spills": 0, "shared": 2048, "warps": 4}
    return {
        **{"kernel": f"{kernel}_kernel", "triton": version, "arch": arch, "tensor_core": {}},
        **{**same, "shared_limit": 101376, "instructions": 100, **changed},
    }


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[list[str]]]:
    """What the command writes of two files of rows, by the tables' names."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # pyright: ignore[reportUnknownMemberType] - untyped
    command = import_module("compile_table")
    written: dict[str, list[list[str]]] = {}

    def write_table(name: str, header: list[str], rows: list[list[str]], notes: list[str]) -> None:
        assert all(len(each) == len(header) for each in rows)
        written[name] = rows

    monkeypatch.setattr(command, "write_table", write_table)
    newest = [
        row("3.10.0", 86, "encode", registers=255, tensor_core={"HMMA": 8}, shared=102400),
        row("3.10.0", 86, "adam", spills=3, registers=128, warps=16),
    ]
    oldest = [row("3.9.1", arch, "adam") for arch in (120, 80)]
    paths = tmp_path / "newest", tmp_path / "oldest"
    for path, rows in zip(paths, (newest, oldest), strict=True):
        path.write_text("".join(f"{json.dumps(each)}\n" for each in rows), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["compile_table.py", "--rows", *map(str, paths)])
    command.main()
    return written


def test_each_version_and_architecture_has_a_line(tables: dict[str, list[list[str]]]) -> None:
    clean = ["1", "0", "0", "40 (adam)", "2 of 99", "0", "none"]
    assert tables["compiled"] == [
        ["3.9.1", "80", *clean],
        ["3.9.1", "120", *clean],
        ["3.10.0", "86", "2", "1 (adam)", "3", "255 (encode)", "100 of 99", "1", "HMMA"],
    ]


def test_each_kernel_has_a_line(tables: dict[str, list[list[str]]]) -> None:
    # 40 registers of 128 threads: 12 programs; 128 of 512 threads: 1.
    assert tables["compiled-kernels"] == [
        ["adam", "1", "4/16", "40 to 40", "128 to 128", "1 to 12", "2.0", "none"],
        ["encode", "1", "4", "", "255 to 255", "2 to 2", "100.0", "HMMA"],
    ]
    assert [len(tables[f"compiled-triton-{each}"]) for each in ("3.9.1", "3.10.0")] == [2, 2]
