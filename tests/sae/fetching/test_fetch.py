"""Fetching into the cache: checksums, interruption, concurrency, and one sentence when it fails."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sparsteer.sae.common.checksums import write_checked_json
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.common.files import sha256_file
from sparsteer.sae.fetching import fetch
from sparsteer.sae.fetching.fetch import ARTIFACTS, Artifact, FetchError, Package

TEXT = "one\ntwo\nthree — four\n"


def make_wheel(folder: Path, members: dict[str, str]) -> Path:
    """A small wheel that pip accepts."""
    wheel = folder / "little-1.0-py3-none-any.whl"
    facts = {
        "little-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: little\nVersion: 1.0\n",
        "little-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        "little-1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {**members, **facts}.items():
            archive.writestr(name, content)
    return wheel


def convert_upper(members: Mapping[str, Path], target: Path) -> None:
    target.write_text("".join(f.read_text() for f in members.values()).upper())


@dataclass
class Registry:
    """A local stand-in for the package registry, and an artifact that lies in it."""

    wheels: Path
    cache: Path
    artifact: Artifact

    def offer(self, **changes: object) -> None:
        """Let `fetch` know the artifact, with some fields changed."""
        self.artifact = replace(self.artifact, **changes)  # pyright: ignore[reportArgumentType] - by name
        ARTIFACTS["little"] = self.artifact

    def repin(self, **changes: object) -> None:
        """Change a field of the artifact's one package."""
        package = replace(self.artifact.packages[0], **changes)  # pyright: ignore[reportArgumentType] - by name
        self.offer(packages=(package,))

    def content(self) -> list[str]:
        """What lies in the cache."""
        return sorted(f.name for f in self.cache.iterdir()) if self.cache.exists() else []


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    wheels, cache = tmp_path / "wheels", tmp_path / "cache"
    wheels.mkdir()
    wheel = make_wheel(wheels, {"little/text.txt": TEXT, "little/__init__.py": "raise SystemExit"})
    (tmp_path / "text").write_text(TEXT)
    monkeypatch.setenv("SPARSTEER_CACHE", str(cache))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    package = Package(
        name="little",
        version="1.0",
        size=wheel.stat().st_size,
        sha256=sha256_file(wheel),
        members={"little/text.txt": sha256_file(tmp_path / "text")},
    )
    artifact = Artifact(
        name="little",
        summary="three lines",
        license="none",
        packages=(package,),
        convert=convert_upper,
        cached_size=len(TEXT),
        file="little.txt",
    )
    monkeypatch.setitem(ARTIFACTS, "little", artifact)
    return Registry(wheels, cache, artifact)


@pytest.fixture
def no_pip(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the download by a copy, which is quicker than pip; the list counts the downloads."""
    downloads: list[str] = []

    def copy(package: Package, folder: Path) -> Path:
        downloads.append(package.name)
        copied = folder / "copied.whl"
        copied.write_bytes(next(registry.wheels.iterdir()).read_bytes())
        return copied

    monkeypatch.setattr(fetch, "download", copy)
    return downloads


def test_fetch_by_pip_and_again_from_the_cache(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    assert not fetch.is_fetched("little")
    path = fetch.fetch("little", progress=lines.append)
    assert path == registry.cache / "little" / "little.txt" == fetch.cached_path("little")
    assert path.read_text() == TEXT.upper()
    assert [line.split()[0] for line in lines] == ["downloading", "converting"]
    assert registry.content() == ["little"]
    assert sorted(os.listdir(path.parent)) == ["fetched.json", "little.txt"]
    assert fetch.is_fetched("little")

    def no_run(*args: object, **kwargs: object) -> None:
        raise AssertionError("pip was run although the artifact is cached")

    monkeypatch.setattr(subprocess, "run", no_run)
    assert fetch.fetch("little") == path


def test_a_wheel_that_is_not_the_pinned_one_leaves_nothing(registry: Registry) -> None:
    registry.repin(sha256="0" * 64)
    with pytest.raises(FetchError, match=r"little-1.0-py3-none-any.whl is not the file") as caught:
        fetch.fetch("little")
    assert "\n" not in str(caught.value)
    assert registry.content() == []


def test_no_such_package_or_no_network_is_one_sentence(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(FetchError, match=r"could not download little==1.0 \(No matching") as caught:
        fetch.fetch("little")
    assert "\n" not in str(caught.value) and "check the network" in str(caught.value)
    assert registry.content() == []


def test_an_environment_without_pip_is_one_sentence(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(FetchError, match=r"needs pip, which .*/bare/bin/python does not have"):
        fetch.fetch("little")
    assert registry.content() == []


def test_a_source_distribution_is_never_built(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Building one would run its code."""
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # or setup.py would not be reached at all
    for wheel in registry.wheels.iterdir():
        wheel.unlink()
    ran = registry.wheels.parent / "ran"
    (registry.wheels.parent / "setup.py").write_text(f"open({str(ran)!r}, 'w')")
    with tarfile.open(registry.wheels / "little-1.0.tar.gz", "w:gz") as archive:
        archive.add(registry.wheels.parent / "setup.py", "little-1.0/setup.py")
    with pytest.raises(FetchError, match="could not download"):
        fetch.fetch("little")
    assert not ran.exists()


def test_a_member_that_is_not_the_pinned_one_leaves_nothing(
    registry: Registry, no_pip: list[str]
) -> None:
    registry.repin(members={"little/text.txt": "0" * 64})
    with pytest.raises(FetchError, match=r"little/text.txt in copied.whl is not the content"):
        fetch.fetch("little")
    assert registry.content() == []


def test_members_by_a_pattern(registry: Registry, no_pip: list[str]) -> None:
    wheel = next(registry.wheels.iterdir())
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("little/deep/more.txt", "four\n")
    registry.repin(
        members={"little/deep/more.txt": hashlib.sha256(b"four\n").hexdigest()},
        patterns=("little/*.txt",),
    )
    assert fetch.fetch("little").read_text() == "FOUR\n" + TEXT.upper()


def test_every_origin_is_pinned() -> None:
    packages = [package for artifact in ARTIFACTS.values() for package in artifact.packages]
    digests = [
        digest for package in packages for digest in (package.sha256, *package.members.values())
    ]
    digests += [artifact.sha256 for artifact in ARTIFACTS.values() if artifact.sha256 is not None]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    assert all(package.members or package.patterns for package in packages)
    assert all(artifact.license and artifact.cached_size for artifact in ARTIFACTS.values())


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left"), ValueError("unexpected")]
)
def test_an_exception_in_the_middle_leaves_nothing(
    registry: Registry, no_pip: list[str], error: BaseException
) -> None:
    def convert(members: Mapping[str, Path], target: Path) -> None:
        target.write_text("half")
        raise error

    registry.offer(convert=convert)
    with pytest.raises(type(error)) as caught:
        fetch.fetch("little")
    assert caught.value is error
    assert registry.content() == []
    registry.offer(convert=convert_upper)
    assert fetch.fetch("little").read_text() == TEXT.upper()


def change_byte(folder: Path) -> None:
    file = folder / "little.txt"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])


def truncate(folder: Path) -> None:
    os.truncate(folder / "little.txt", 3)


def remove(folder: Path) -> None:
    (folder / "little.txt").unlink()


def break_record(folder: Path) -> None:
    (folder / "fetched.json").write_text("{}")


def remove_record(folder: Path) -> None:
    (folder / "fetched.json").unlink()


@pytest.mark.parametrize("damage", [change_byte, truncate, remove, break_record, remove_record])
def test_a_damaged_copy_is_found_and_fetched_again(
    registry: Registry, no_pip: list[str], damage: Callable[[Path], None]
) -> None:
    path = fetch.fetch("little")
    (path.parent / "stray").touch()
    damage(path.parent)
    # A changed byte keeps the size, which is all that is_fetched looks at.
    assert fetch.is_fetched("little") == (damage is change_byte)
    lines: list[str] = []
    assert fetch.fetch("little", progress=lines.append).read_text() == TEXT.upper()
    assert "damaged" in lines[0]
    assert no_pip == ["little", "little"]
    assert sorted(os.listdir(path.parent)) == ["fetched.json", "little.txt"]


def test_a_record_that_has_changed_is_made_again(registry: Registry, no_pip: list[str]) -> None:
    record = fetch.fetch("little").parent / "fetched.json"
    whole = record.read_text()
    record.write_text(whole.replace("none", "MIT"))
    assert not fetch.is_fetched("little")
    fetch.fetch("little")
    assert record.read_text() == whole and len(no_pip) == 2


def test_a_record_of_an_earlier_version_is_read(registry: Registry, no_pip: list[str]) -> None:
    path = fetch.fetch("little")
    values = json.loads((path.parent / "fetched.json").read_text())
    del values["version"], values["sha256"]
    for entry in values["files"].values():
        entry["size"] = entry.pop("bytes")
    (path.parent / "fetched.json").write_text(json.dumps(values))
    assert fetch.is_fetched("little")
    fetch.fetch("little")
    assert no_pip == ["little"]


def test_another_text_with_a_record_of_its_own_is_not_the_pinned_one(
    registry: Registry, no_pip: list[str]
) -> None:
    pinned = hashlib.sha256(TEXT.upper().encode()).hexdigest()
    registry.offer(sha256=pinned)
    path = fetch.fetch("little")
    other = TEXT.lower().encode()
    assert len(other) == path.stat().st_size
    path.write_bytes(other)
    record = path.parent / "fetched.json"
    values = json.loads(record.read_text())
    values["files"]["little.txt"]["sha256"] = hashlib.sha256(other).hexdigest()
    del values["sha256"]
    write_checked_json(record, values)
    assert not fetch.is_fetched("little")
    assert fetch.fetch("little").read_text() == TEXT.upper()
    assert no_pip == ["little", "little"]


def test_a_conversion_to_another_text_than_the_pinned_one(
    registry: Registry, no_pip: list[str]
) -> None:
    registry.offer(sha256="0" * 64)
    with pytest.raises(FetchError, match="converting little gave another content than was pinned"):
        fetch.fetch("little")
    assert registry.content() == []


def test_a_model_is_a_folder_and_has_no_pinned_content(
    registry: Registry, no_pip: list[str]
) -> None:
    def fill(members: Mapping[str, Path], folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        convert_upper(members, folder / "model.txt")

    registry.offer(file="", convert=fill)
    folder = fetch.fetch("little")
    assert (folder / "model.txt").read_text() == TEXT.upper()
    assert fetch.fetch("little") == folder
    assert no_pip == ["little"]
    (folder / "model.txt").write_text("other")
    fetch.fetch("little")
    assert no_pip == ["little", "little"]


@pytest.mark.parametrize("changed", ["revision", "version"])
def test_a_copy_of_another_revision_is_made_again(
    registry: Registry, no_pip: list[str], changed: str
) -> None:
    fetch.fetch("little")
    if changed == "revision":
        registry.offer(revision=2)
    else:
        registry.repin(version="1.1")
    assert not fetch.is_fetched("little")
    fetch.fetch("little")
    assert no_pip == ["little", "little"]
    assert fetch.is_fetched("little")


SECOND_PROCESS = """
import sys, time
from pathlib import Path
import test_fetch_shared as shared
from sparsteer.sae.fetching import fetch

def convert(members, target):
    with open(shared.log, "a") as log:
        log.write("converted\\n")
    print("converting", flush=True)
    time.sleep(shared.seconds)
    target.write_text("done")

shared.register(convert)
print(fetch.fetch("little", progress=lambda line: print(line, flush=True)).read_text(), flush=True)
"""


def start_process(registry: Registry, folder: Path, seconds: float) -> subprocess.Popen[str]:
    """Another process that fetches the artifact; its conversion takes `seconds`."""
    package = registry.artifact.packages[0]
    (folder / "test_fetch_shared.py").write_text(
        "from sparsteer.sae.fetching.fetch import ARTIFACTS, Artifact, Package\n"
        f"log, seconds = {str(folder / 'log')!r}, {seconds}\n"
        f"package = Package(name='little', version='1.0', size=1, sha256={package.sha256!r}, "
        f"members={dict(package.members)!r})\n"
        "def register(convert):\n"
        "    ARTIFACTS['little'] = Artifact(name='little', summary='', license='', cached_size=1, "
        "packages=(package,), convert=convert, file='little.txt')\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", SECOND_PROCESS],
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_kill_in_the_middle_leaves_a_cache_that_the_next_run_mends(
    registry: Registry, no_pip: list[str], tmp_path: Path
) -> None:
    with start_process(registry, tmp_path, seconds=60) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "converting\n":
            pass
        process.kill()
    assert not fetch.is_fetched("little")
    assert [name[:5] for name in registry.content()] == [".lock", ".tmp-"]
    assert fetch.fetch("little").read_text() == TEXT.upper()
    assert registry.content() == ["little"]


@pytest.mark.slow
def test_two_processes_at_once_fetch_once(registry: Registry, tmp_path: Path) -> None:
    with (
        start_process(registry, tmp_path, 1.5) as one,
        start_process(registry, tmp_path, 1.5) as other,
    ):
        outputs = [process.communicate()[0].splitlines() for process in (one, other)]
    assert [lines[-1] for lines in outputs] == ["done", "done"]
    assert (tmp_path / "log").read_text() == "converted\n"
    assert registry.content() == ["little"]


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(
        InputError, match="'smolm2-135' cannot be fetched by name; try smollm2-135m"
    ):
        fetch.fetch("smolm2-135")
    with pytest.raises(InputError, match=" or ".join(ARTIFACTS)):
        fetch.is_fetched("zzz")


@pytest.mark.parametrize(
    ("own", "general", "expected"),
    [
        ("/own", "/general", "/own"),
        ("", "/general", "/general/sparsteer"),
        ("", "", "/me/.cache/sparsteer"),
        ("", "relative", "/me/.cache/sparsteer"),
        ("~/own", "", "/me/own"),
    ],
)
def test_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, own: str, general: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/me")
    monkeypatch.setenv("SPARSTEER_CACHE", own)
    monkeypatch.setenv("XDG_CACHE_HOME", general)
    assert fetch.cache_folder() == Path(expected)


ROWS = {
    "rtp-prompts": 700,
    "news": 3824,
    "commons": 1000,
    "healthtweets": 63326,
    "instructions": 446,
    "encyclopedia": 10_033,
    "chitchat": 7168,
    "cookbook": 3129,
    "haydock": 1334,
    "aws-docs": 86_392,
    "python-code": 1536,
    "probing-tasks": 334_092,
}


@pytest.mark.download
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.usefixtures("user_cache")
def test_the_real_texts(name: str) -> None:
    path = fetch.fetch(name)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert len(rows) == ROWS[name]
    assert path.stat().st_size == ARTIFACTS[name].cached_size
    fields = {"rtp-prompts": "prompt", "instructions": "instruction", "encyclopedia": "extract"}
    field = fields.get(name, "text")
    assert all(isinstance(row[field], str) for row in rows)
