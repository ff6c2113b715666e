"""The project's own tests that need a GPU, with whatever pytest plugins are there."""

import os
import subprocess
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from .device import Device
from .rows import Judged, NotThere, Rows

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "tests" / "kernels" / "triton"


def run_tests(device: Device, rows: Rows, tiny: bool) -> None:
    """All of them; one file of them where they are interpreted."""
    files = [KERNELS / "test_jaccard.py"] if tiny else files_with_gpu_tests()
    rows.run("pytest -m gpu", partial(judge_tests, device, files))


def files_with_gpu_tests() -> list[Path]:
    """The folder of the kernels' tests, and every other file that has a test for a GPU."""
    others = [
        path
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if KERNELS not in path.parents and "mark.gpu" in path.read_text(encoding="utf-8")
    ]
    return [KERNELS, *others]


def judge_tests(device: Device, files: list[Path]) -> Judged:
    """Run them without the plugins of a whole environment, and count."""
    for name in ("pytest", "hypothesis"):
        if find_spec(name) is None:
            raise NotThere(name)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        # A newer torch or Triton may warn of something; run-time type checks need beartype.
        command += ["-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default"]
        command += ["--continue-on-collection-errors", f"--junitxml={report}"]
        if find_spec("xdist"):
            command += ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "worksteal"]
        if device.kind == "cuda":
            command += ["-m", "gpu"]
        subprocess.run([*command, *map(str, files)], cwd=ROOT, stdin=subprocess.DEVNULL)
        if not report.exists():
            raise RuntimeError("pytest ended without a report")
        return read_report(report)


def read_report(report: Path) -> Judged:
    """Counts of a JUnit report, and the names of tests that failed."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or _errs(case)]
    skipped = [case for case in cases if case.find("skipped") is not None]
    found = Judged().note(
        passed=len(cases) - len(bad) - len(skipped), failed=len(bad), skipped=len(skipped)
    )
    found.wrong += [f"{case.get('classname')}::{case.get('name')}" for case in bad]
    if not cases:
        found.wrong.append("no test was found")
    return found


def _errs(case: ElementTree.Element) -> bool:
    return case.find("error") is not None
