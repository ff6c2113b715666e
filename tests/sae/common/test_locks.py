"""Locks of files and folders: one writer, nothing left behind, nothing of others removed."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsteer.sae import InputError
from sparsteer.sae.common.locks import LOCK, AnotherWriter, hold, hold_folder, is_leftover, tidy

HOLDER = """
import sys, time
from sparsteer.sae.common.files import atomic_file
from sparsteer.sae.common.locks import hold, hold_folder
with hold(sys.argv[1]), hold_folder(sys.argv[2]), atomic_file(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""
COUNTER = """
import sys
from pathlib import Path
from sparsteer.sae.common.files import atomic_file
from sparsteer.sae.common.locks import hold
path = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with hold(path, patience=60):
        number = int(path.read_text())
        with atomic_file(path) as temporary:
            temporary.write_text(str(number + 1))
"""


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def holder(file: Path, folder: Path) -> "subprocess.Popen[bytes]":
    """A process that holds both, with a temporary file for the first."""
    command = [sys.executable, "-c", HOLDER, str(file), str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("name", ["a[b]*?.jsonl", "new\n{line}"])
def test_the_next_holder_clears_what_a_killed_one_left_of_its_name(
    name: str, tmp_path: Path
) -> None:
    file, folder = tmp_path / "files" / name, tmp_path / "folder"
    with holder(file, folder) as process:
        with pytest.raises(
            AnotherWriter, match=r"(?s)another process is writing .*; wait for it, or"
        ):
            hold(file).__enter__()
        with pytest.raises(InputError, match="another process is writing"):
            hold_folder(folder).__enter__()
        process.send_signal(signal.SIGKILL)
    assert len(names(file.parent)) == 2 and all(is_leftover(f) for f in file.parent.iterdir())
    # Of other names, though a glob of this name would match some.
    others = [".tmp-0123456789ab-other", ".tmp-0123456789ab-b.jsonl", ".tmp-mine", "ab.jsonl"]
    for other in others:
        (file.parent / other).write_text("kept")
    (file.parent / ".tmp-0123456789ab-.lock").touch()  # killed while asking whether it may write
    with hold(file):
        assert names(file.parent) == sorted([*others, f".lock-{name}"])
    assert names(file.parent) == sorted(others)
    with hold_folder(folder):
        (folder / "content").touch()
    assert names(folder) == ["content"]


def test_the_holder_of_a_folder_clears_it_but_for_living_writers(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("picks.json", "config.yaml"):
        (folder / f".tmp-0123456789ab-{name}").write_text("half")
    (folder / ".tmp-0123456789ab-.tmp-0123456789ab-sae").mkdir()
    (folder / ".lock-report.html").touch()
    with holder(folder / "picks.json", tmp_path / "elsewhere") as process:
        living = set(names(folder))
        tidy(folder)
        own = {name for name in living if name.endswith("-picks.json")}
        assert set(names(folder)) == own and len(own) >= 2
        process.send_signal(signal.SIGKILL)
    with hold_folder(folder):
        assert names(folder) == [".lock"]
    assert not names(folder)
    folder.rmdir()
    tidy(folder)
    assert not folder.exists()


def test_folders_that_were_made_for_nothing_are_gone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyboardInterrupt), hold(tmp_path / "mine" / "a" / "b" / "out.jsonl"):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["mine"] and not names(tmp_path / "mine")
    with pytest.raises(KeyboardInterrupt), hold_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "kept").touch()
        raise KeyboardInterrupt
    assert names(tmp_path / "a") == ["kept"]


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    """Each takes and drops the lock many times, while its file comes and goes."""
    path = tmp_path / "number"
    path.write_text("0")
    counters = [subprocess.Popen([sys.executable, "-c", COUNTER, path, "40"]) for _ in range(3)]
    assert [process.wait() for process in counters] == [0, 0, 0]
    assert (path.read_text(), names(tmp_path)) == ("120", ["number"])


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / ".lock-out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), hold(tmp_path / "out"):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux")
def test_a_folder_where_nothing_can_be_written_is_not_taken_for_a_held_one() -> None:
    began = time.monotonic()
    with pytest.raises(OSError) as caught, hold("/proc/out", patience=-1.0):
        pass
    assert caught.value.errno in (errno.ENOENT, errno.EACCES, errno.EPERM)
    assert time.monotonic() - began < 5


def test_what_is_no_leftover(tmp_path: Path) -> None:
    random_name = "".join(random.Random(0).choices("0123456789abcdef", k=12))
    assert is_leftover(tmp_path / f".tmp-{random_name}-a-b")
    for name in (".tmp-mine", f".tmp-{random_name}", ".locked", "lock", ".lock-", "a.tmp-0"):
        assert not is_leftover(tmp_path / name)


def _without_flock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)


def test_holds_one_writer_on_a_file_system_without_flock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_flock(monkeypatch, errno.ENOSYS)
    for _ in range(2):  # again after the first has given it up
        with hold(tmp_path / "x"), pytest.raises(AnotherWriter), hold(tmp_path / "x", patience=0.0):
            pass
        with hold_folder(tmp_path):
            assert [item.name for item in tmp_path.iterdir()] == [LOCK]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_says_that_a_file_system_cannot_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    _without_flock(monkeypatch, number)
    with pytest.raises(InputError, match="cannot lock files; write to another disk"):
        with hold(tmp_path / "x"):
            pass
    assert not list(tmp_path.iterdir())
