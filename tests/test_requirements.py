"""The lock files are of pyproject.toml, and the audit tells a vulnerability from no answer."""

import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements"
ENTRY = re.compile(r"^([a-z0-9-]+)==([^ ;\\]+)(.*?)(?=^[a-z0-9]|\Z)", re.MULTILINE | re.DOTALL)
ADVISORY = {
    "id": "GHSA-made-up",
    "summary": "a made-up advisory",
    "affected": [
        {
            "package": {"name": "requests", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.5"}]}],
        }
    ],
}


def locked(name: str) -> dict[str, tuple[str, str]]:
    """Version and the rest of the entry of each package of a lock file."""
    text = (REQUIREMENTS / f"{name}.lock").read_text(encoding="utf-8")
    return {package: (version, rest) for package, version, rest in ENTRY.findall(text)}


LOCKS = {name: locked(name) for name in ("build", "base", "torch", "torch-cpu")}


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_has_a_hash(name: str) -> None:
    assert LOCKS[name]
    for package, (_, rest) in LOCKS[name].items():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", rest), package


def test_the_locks_and_the_constraints_agree() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    versions = {
        package: version
        for name in ("build", "base", "torch")
        for package, (version, _) in LOCKS[name].items()
    }
    assert sorted(lines) == sorted(f"{name}=={version}" for name, version in versions.items())
    assert LOCKS["torch-cpu"].keys() == {"torch"}
    assert LOCKS["torch-cpu"]["torch"][0] == f"{versions['torch']}+cpu"


def test_the_locks_meet_what_pyproject_asks_for() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = settings["project"]["dependencies"] + settings["build-system"]["requires"]
    for group in (settings["project"]["optional-dependencies"], settings["dependency-groups"]):
        asked += [line for lines in group.values() for line in lines]
    for requirement in map(Requirement, asked):
        holds = [lock for lock in LOCKS.values() if canonicalize_name(requirement.name) in lock]
        assert holds, requirement
        for lock in holds:
            assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)][0])


def test_what_only_has_a_source_distribution_is_left_out() -> None:
    for lock in LOCKS.values():
        assert "transformers-stream-generator" not in lock


@pytest.fixture(scope="module")
def advisories() -> Iterator[str]:
    """The address of an OSV service that knows one advisory."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["content-length"])))
            known: dict[str, Any] = {}
            if query["package"]["name"] == "requests":
                known = {"vulns": [ADVISORY]}
            body = json.dumps(known).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(*words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, str(REQUIREMENTS / "audit.py"), *words],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_known_vulnerability_fails_the_audit(advisories: str) -> None:
    status, out, _ = audit("--osv-url", advisories)
    assert status == 1
    assert "requests" in out and "GHSA-made-up (mended in: 99.5)" in out
    status, out, _ = audit("--osv-url", advisories, "--ignore-vuln", "GHSA-made-up")
    assert status == 0 and "0 known vulnerabilities" in out


def test_an_audit_without_an_answer_says_so() -> None:
    status, out, _ = audit("--osv-url", "http://127.0.0.1:1/v1/query")
    assert status == 0 and "NOT audited" in out


def test_an_audit_that_breaks_is_not_passed_over() -> None:
    status, _, err = audit("--no-such-option")
    assert status == 1 and "--no-such-option" in err
