"""Options that name files and folders: `~`, and paths that no file can have."""

import os
import socket
from pathlib import Path

import pytest

from sparsteer.cli.arguments import parse
from sparsteer.cli.main import VERBS
from sparsteer.sae.common.errors import InputError

SELECT = ("--column", "c", "--count", "1")


def out_of(*words: str) -> str:
    return parse("sparsteer select", VERBS["select"], [*SELECT, *words])[0].out


def refused(*words: str) -> str:
    with pytest.raises(InputError) as caught:
        out_of(*words)
    return str(caught.value)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, and an empty current folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_a_tilde_is_the_home_on_the_command_line_and_in_a_recipe(home: Path) -> None:
    home.mkdir()
    assert out_of("rows", "--out=~/x") == str(home / "x")
    (home / "recipe.yaml").write_text("out: ~/y\nfile: ~\n")
    assert out_of("--config", "~/recipe.yaml", "~") == str(home / "y")
    assert out_of("rows", "--out", "./~") == "./~"
    assert "no such user" in refused("rows", "--out", "~nobody-here/x")


def test_the_tilde_of_every_path_is_expanded(home: Path) -> None:
    """Whichever verb takes it: no folder called ~ is ever made."""
    for name, verb in VERBS.items():
        for option in verb.options().values():
            if option.shown in ("--out", "--cache", "--run", "--config"):
                assert option.is_path, (name, option.shown)
                assert "PATH" in option.metavar


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "--out is empty; give a path"),
        ("  ", "--out is empty"),
        ("n" * 256, "a name has at most 255 bytes"),
        ("é" * 128, "a name has at most 255 bytes"),
        ("n/" * 2100, "a path 4095; give a shorter one"),
        ("a\udcff", "which is not UTF-8; rename it"),
        ("a\0b", "which holds a NUL character"),
        ("loop", "too many levels of symbolic links); mend the symbolic link"),
        ("pipe", "--out is 'pipe', which is a pipe; give a regular file or folder"),
        ("socket", "which is a socket"),
        ("/dev/null", "which is a device"),
        ("file/inside", "not a directory); give a path whose folders are folders"),
    ],
)
def test_what_is_no_path_is_refused(home: Path, path: str, said: str) -> None:
    Path("loop").symlink_to("loop")
    Path("file").write_text("")
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as own:
        own.bind("socket")
        assert said in refused("rows", "--out", path)


@pytest.mark.parametrize("path", ["new", "new/in/new", "n" * 255, "é" * 127, "/", "a b", "*.jsonl"])
def test_other_paths_are_taken_as_they_are(home: Path, path: str) -> None:
    assert out_of("rows", "--out", path) == path
