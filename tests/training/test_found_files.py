"""Files of a folder whose content changes while it is read."""

import os
from pathlib import Path
from typing import Any

import pytest

from sparsteer.training.data.paths import find_files


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
