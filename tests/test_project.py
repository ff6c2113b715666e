"""What people and machines run on the project says the same as the project: targets, version."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PYTHONS = ["3.11", "3.12", "3.13"]


def targets() -> set[str]:
    phony = re.search(r"^\.PHONY:((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    return set(phony[1].replace("\\", " ").split())


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("words", [[], ["help"]], ids=["make", "make help"])
def test_make_tells_every_target_in_a_line(words: list[str]) -> None:
    # Called from `make test`, it must not go on in that one's ways and tell the folder it enters.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    told = [re.fullmatch(r"make (\S+) +(\S.*)", line) for line in done.stdout.splitlines()]
    assert all(told)
    assert {line[1] for line in told if line} == targets()
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_what_a_commit_and_continuous_integration_run_exists() -> None:
    (hook,) = (
        hook for repo in read_yaml(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]
    )
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    called = re.findall(r"\bmake ([a-z-]+)", f"{hook['entry']}\n{ci}")
    assert {"check", "test", "test-slow"} <= set(called) <= targets()


def test_the_hosted_run_calls_only_ours_on_every_python() -> None:
    (job,) = read_yaml(".github/workflows/ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert job["strategy"]["matrix"]["python"] == PYTHONS
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert least == f">={PYTHONS[0]}"


def test_the_version_is_that_of_the_changelog_and_of_the_page() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(re.escape(version) + r" \(\d{4}-\d\d-\d\d\)", headings[1])
    page = (ROOT / "docs" / "cli.md").read_text()
    assert re.findall(r"^sparsteer (\d\S*), Python", page, re.MULTILINE) == [version]
