"""Write the lock files, with the hash of every wheel, and constraints.txt from them: `make lock`.

`--upgrade` takes the newest versions that pyproject.toml allows; without it a locked version stays
for as long as it is allowed.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
CONSTRAINTS = ROOT / "constraints.txt"

# transformer-lens asks for them and imports neither; the first is a source distribution, whose
# setup.py would run at its installation.
LEFT_OUT = ("transformers-stream-generator", "fancy-einsum")
# What installs the rest, and what comes with torch's build for CUDA and is of no use to the CPU's.
_FILES = {"build": r"(pip|setuptools)==", "torch": r"(torch|nvidia-.+|cuda-.+)==", "base": ""}
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)")
_HEAD = "# Written by `make lock`; install with --no-deps, since every package is listed.\n"


def main() -> None:
    """Resolve pyproject.toml for every platform at once and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    upgrade: bool = parser.parse_args().upgrade
    entries = _resolve(upgrade)
    left = entries
    for name, pattern in _FILES.items():
        _write(HERE / f"{name}.lock", [entry for entry in left if re.match(pattern, entry)])
        left = [entry for entry in left if not re.match(pattern, entry)]
    pins = [match for entry in entries if (match := _PIN.match(entry))]
    lines = [f"{pin['name']}=={pin['version']}\n" for pin in pins]
    CONSTRAINTS.write_text("".join(lines), encoding="utf-8")
    torch = next(pin["version"] for pin in pins if pin["name"] == "torch")
    _lock_cpu_build(torch)


def _resolve(upgrade: bool) -> list[str]:
    """One entry, `name==version ; marker` and its hashes, for each package and tool."""
    words = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header"]
    words += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate"]
    words += ["--all-extras", "--group", "dev", "--group", "docs"]
    words += ["pyproject.toml"]
    words += [word for name in LEFT_OUT for word in ("--no-emit-package", name)]
    if not upgrade:
        words += ["--constraint", str(CONSTRAINTS)]
    found = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return re.findall(r"^[A-Za-z0-9].*?(?=^[A-Za-z0-9]|\Z)", found, flags=re.MULTILINE | re.DOTALL)


def _lock_cpu_build(version: str) -> None:
    """Add the wheel of the CPU's build that pip's configured indexes have for this interpreter."""
    file = HERE / "torch-cpu.lock"
    pin = f"torch=={version}+cpu"
    known = file.read_text(encoding="utf-8") if file.exists() else ""
    hashes = set(re.findall(r"sha256:[0-9a-f]{64}", known)) if f"{pin} " in known else set[str]()
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        words += ["--only-binary", ":all:", "--dest", folder, pin]
        if subprocess.run(words, check=False).returncode:
            print(f"pip's indexes have no {pin}; its known hashes stay as they are")
        for wheel in Path(folder).iterdir():
            said = subprocess.run(
                [sys.executable, "-m", "pip", "hash", str(wheel)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
            hashes |= set(re.findall(r"sha256:[0-9a-f]{64}", said))
    if hashes:
        options = "".join(f" \\\n    --hash={one}" for one in sorted(hashes))
        _write(file, [f"{pin}{options}\n"])


def _write(path: Path, entries: list[str]) -> None:
    path.write_text(_HEAD + "".join(entries), encoding="utf-8")


if __name__ == "__main__":
    main()
