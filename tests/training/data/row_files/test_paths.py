"""Files of a folder whose content changes while it is read."""

import os
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae.common import paths
from sparsteer.sae.common.errors import InputError
from sparsteer.training.data.row_files.paths import find_files
from sparsteer.training.verification import verify


def test_a_folder_that_is_gone_before_it_is_listed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.txt").write_text("a")
    scandir = os.scandir

    def late(path: Any) -> Any:
        if Path(path).name == "gone":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", late)
    assert find_files(str(tmp_path)).names == ("kept/a.txt",)


def test_a_folder_of_more_files_than_can_be_meant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_MOST_FILES", 5)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for n in range(3):
            (tmp_path / name / f"{n}.txt").write_text("a")
    assert len(find_files(str(tmp_path / "a")).files) == 3
    assert len(find_files(str(tmp_path / "*" / "*.txt")).files) == 6
    for read in (find_files, verify):
        with pytest.raises(InputError, match=r"holds more than 5 files; give a folder in it, or"):
            read(str(tmp_path))
