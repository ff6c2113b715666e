"""Ask the advisory service OSV about every locked package: part of `make check`.

Ends with 1 for a known vulnerability. Where the service cannot be reached it says so and ends with
0, so that everything else can be checked without a network. Arguments go to pip-audit:
`--ignore-vuln ID` for an advisory that does not concern this project.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOCKS = ("build.lock", "base.lock", "torch.lock")
# How pip-audit's last words begin where no connection or no answer came about.
_UNREACHABLE = re.compile(r"^(requests\.exceptions|pip_audit\.\S*(Connection|Service)Error)", re.M)


def main() -> int:
    """Run pip-audit on the lock files and tell what it found."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        said = _ask(answer)
        if not answer.exists():
            if not _UNREACHABLE.search(said):
                print(said, file=sys.stderr)
                return 1
            print("the locked packages were NOT audited: the advisory service cannot be reached")
            return 0
        packages: list[dict[str, Any]] = json.loads(answer.read_text())["dependencies"]
    return report(packages)


def report(packages: list[dict[str, Any]]) -> int:
    """Print one line for each vulnerability and one in all; 1 if there is a vulnerability."""
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    audited = [package for package in packages if "skip_reason" not in package]
    found = [(package, known) for package in audited for known in package["vulns"]]
    for package, known in found:
        remedy = ", ".join(known["fix_versions"]) or "none"
        print(f"{package['name']} {package['version']}: {known['id']} (mended in: {remedy})")
    line = f"{len(audited)} locked packages audited, {len(found)} known vulnerabilities"
    print(line + (f"; no answer about {', '.join(skipped)}" if skipped else ""))
    return int(bool(found))


def _ask(answer: Path) -> str:
    words = [sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv"]
    words += ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "--timeout", "10"]
    words += ["--format", "json", "--output", str(answer)]
    words += [word for lock in LOCKS for word in ("--requirement", str(HERE / lock))]
    words += sys.argv[1:]
    return subprocess.run(words, check=False, stderr=subprocess.PIPE, text=True).stderr.strip()


if __name__ == "__main__":
    sys.exit(main())
