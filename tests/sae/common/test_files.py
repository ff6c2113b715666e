"""Atomic files and folders, JSON, and nearest words."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae.common import files
from sparsteer.sae.common.errors import InputError

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # A lone surrogate is no character and has no UTF-8 form.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", max_size=3), inner),
    max_leaves=8,
)


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def no_exchange(one: Path, other: Path) -> bool:
    """As on a system without the call."""
    return False


def test_atomic_file_appears_only_at_the_end_and_keeps_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "weights.safetensors"
    with files.atomic_file(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
        assert temporary.parent == path.parent and temporary.suffix == ".safetensors"
        assert temporary.name.startswith(files.TEMPORARY_PREFIX)
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["weights.safetensors"]


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "x")]
)
def test_atomic_file_keeps_the_old_content_when_writing_fails(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), files.atomic_file(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_atomic_file_that_was_never_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_file(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_atomic_file_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with files.atomic_file(tmp_path / "atomic") as temporary:
        temporary.touch()
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_atomic_folder_replaces_the_old_content_wholly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_rename_exchange", no_exchange)
    path = tmp_path / "sae"
    for content in ("first", "second"):
        with files.atomic_folder(path) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / content).write_text(content)
            if content == "second":
                assert names(path / "sub") == ["first"]
        assert names(path / "sub") == [content]
        assert names(tmp_path) == ["sae"]


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_atomic_folder_keeps_the_old_content_when_the_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    path = tmp_path / "sae"
    path.mkdir()
    (path / "old").touch()
    rename = os.rename

    def failing_rename(source: Path, target: Path) -> None:
        if Path(target) == path and (Path(source) / "new").exists():
            raise OSError(errno.EIO, "no")
        rename(source, target)

    def failing_exchange(one: Path, other: Path) -> bool:
        if exchange:
            raise OSError(errno.EIO, "no")
        return False

    monkeypatch.setattr(os, "rename", failing_rename)
    monkeypatch.setattr(files, "_rename_exchange", failing_exchange)
    with pytest.raises(OSError, match="no"), files.atomic_folder(path) as temporary:
        (temporary / "new").touch()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["sae"]


def test_atomic_folder_keeps_the_old_content_when_filling_fails(tmp_path: Path) -> None:
    path = tmp_path / "sae"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(path) as temporary:
        (temporary / "new").touch()
        raise KeyboardInterrupt
    assert names(path) == ["old"]
    assert names(tmp_path) == ["sae"]


def test_leftovers_of_a_killed_writer_are_removed_and_nothing_else(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from sparsteer.sae.common.files import atomic_file, atomic_folder\n"
        "with atomic_folder(sys.argv[1] + '/d') as d, atomic_file(sys.argv[1] + '/a-f') as f:\n"
        "    (d / 'x').touch(); f.touch(); print('ready', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    (tmp_path / "kept").touch()
    (tmp_path / ".tmp-mine").touch()
    assert len(names(tmp_path)) == 4
    files.remove_leftovers(tmp_path, "f")
    assert len(names(tmp_path)) == 4
    files.remove_leftovers(tmp_path, "a-f")
    assert len(names(tmp_path)) == 3
    files.remove_leftovers(tmp_path, "d")
    assert names(tmp_path) == [".tmp-mine", "kept"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_other_content_is_kept_unless_it_is_to_be_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"

    def write(text: str, *, replace: bool) -> None:
        if kind == "file":
            with files.atomic_file(path, replace=replace) as temporary:
                temporary.write_text(text)
        else:
            with files.atomic_folder(path, replace=replace) as temporary:
                (temporary / "deep").mkdir()
                (temporary / "deep" / "a").write_text(text)

    def text() -> str:
        return (path if kind == "file" else path / "deep" / "a").read_text()

    for replace in (False, False, True):
        write("one", replace=replace)
        assert text() == "one"
    with pytest.raises(InputError, match=r"exists with other content; give another --out, or --fo"):
        write("two", replace=False)
    assert text() == "one" and names(tmp_path) == ["out"]
    write("two", replace=True)
    assert text() == "two" and names(tmp_path) == ["out"]


def test_a_folder_is_compared_by_all_its_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "x").write_text("same")
    assert files.same_content(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "sub" / "more").touch()
    assert not files.same_content(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "sub" / "more").mkdir()
    assert not files.same_content(tmp_path / "a", tmp_path / "b")


@given(value=st.dictionaries(st.text("kéy", max_size=4), JSON_VALUES))
def test_json_comes_back_equal(
    value: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    files.write_json(path, value)
    assert files.read_json(path, "thing") == value
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n") and text == json.dumps(value, indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_refuses_nan_and_writes_nothing(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "a.json", {"x": value})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no SAE configuration at"),
        (b"{", "not valid JSON"),
        (b"[1]", "a JSON list where an object"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_broken_json_is_one_sentence_with_the_path(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        files.read_json(path, "SAE configuration")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_in_the_place_of_json_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(it is a folder, not a reg"):
        files.read_json(tmp_path, "manifest")


def test_nearest_words() -> None:
    choices = [f"blocks.{layer}.hook_resid_post" for layer in range(12)] + ["embed"]
    assert files.nearest("blocks.3.hook_resid_pots", choices)[0] == "blocks.3.hook_resid_post"
    assert len(files.nearest("blocks.99.hook_resid_post", choices)) == 3
    assert files.nearest("zzz", choices) == []


def test_sha256_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # the first test vector of FIPS 180-2
    assert files.sha256_file(tmp_path / "a") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
