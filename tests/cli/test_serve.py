"""The verb `serve`: one line of JSON once it answers, a sentence where it cannot, a quick end."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from sparsteer.app.browser.server import Running
from sparsteer.app.browser.session import Session
from sparsteer.cli import serve as verb
from sparsteer.cli.main import main

from .conftest import Sparsteer

ENVIRONMENT = os.environ | {"SPARSTEER_THREADS": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def indexed_run(run_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a feature index, in a folder of its own."""
    run = tmp_path_factory.mktemp("served") / "run"
    shutil.copytree(run_folder, run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        assert main(["features", "build", str(run), "--cache", str(cache), "--examples", "3"]) == 0
    return run


@pytest.fixture
def ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is stopped where a person would press Ctrl-C, and reads no language model."""

    def not_now(session: Session) -> None: ...

    monkeypatch.setattr(Session, "start_loading", not_now)
    monkeypatch.setattr(Running, "wait", Running.stop)


def _take_ctrl_c() -> None:
    """A shell that put the tests into the background lets what they start ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def served(*words: object, cwd: Path) -> Generator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """The command in a process of its own, once it has printed its line."""
    command = [sys.executable, "-m", "sparsteer.cli", "serve", *map(str, words), "--json"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=ENVIRONMENT,
        preexec_fn=_take_ctrl_c,
    )
    with process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], 120)
            assert ready, "no line in two minutes"
            line = process.stdout.readline()
            assert line, process.communicate()
            yield process, json.loads(line)
        finally:
            process.kill()


@pytest.mark.usefixtures("ends_at_once")
def test_a_program_reads_one_line_and_a_person_the_address(
    indexed_run: Path, sparsteer: Sparsteer
) -> None:
    done = sparsteer("serve", indexed_run, "--port", 0, "--json")
    assert (done.status, done.err) == (0, "")
    assert done.out.count("\n") == 1 and set(done.values) == {"url", "token"}
    assert done.values["url"].startswith("http://127.0.0.1:")
    shown = sparsteer("serve", indexed_run, "--port", 0).out
    address, ssh, clients, end = shown.splitlines()
    url, _, token = address.partition("/?token=")
    port = url.rpartition(":")[2]
    assert len(token) > 40 and token != done.values["token"]
    assert ssh == (
        f"from another machine: ssh -L {port}:127.0.0.1:{port} THIS_MACHINE, then "
        f"http://127.0.0.1:{port}/?token={token}"
    )
    assert clients == f"OpenAI clients: base_url {url}/v1, api_key {token}"
    assert end == "Ctrl-C ends it"


@pytest.mark.usefixtures("ends_at_once")
def test_whoever_exposes_it_is_told_that_nothing_is_encrypted(
    indexed_run: Path, sparsteer: Sparsteer
) -> None:
    words = ("serve", indexed_run, "--port", 0, "--host", "0.0.0.0")
    assert "add --expose to allow that" in sparsteer(*words).error
    done = sparsteer(*words, "--expose")
    assert done.out.startswith("http://127.0.0.1:"), "an address that answers"
    assert f"unencrypted: http://{socket.gethostname()}:" in done.out


@pytest.mark.usefixtures("ends_at_once")
def test_without_a_run_the_newest_with_an_index_is_opened(
    indexed_run: Path, sparsteer: Sparsteer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened = list[str]()
    init = Session.__init__

    def remember(session: Session, *words: Any) -> None:
        init(session, *words)
        opened.append(str(session.run))

    monkeypatch.setattr(Session, "__init__", remember)
    error = sparsteer("serve").error
    for remedy in ("serve RUN", "features build", "sparsteer demo"):
        assert remedy in error
    (tmp_path / "bare" / "sae").mkdir(parents=True)
    (tmp_path / "bare" / "sae" / "config.json").write_text("{}")
    assert "no run with a feature index" in sparsteer("serve").error
    for place, age in (("demo/runs/old", 300), ("here", 200), ("runs/new", 100)):
        shutil.copytree(indexed_run, tmp_path / place)
        for file in (tmp_path / place / "features").iterdir():
            os.utime(file, (time.time() - age, time.time() - age))
        assert sparsteer("serve", "--port", 0).status == 0
        assert opened.pop() == place
    assert not opened


@pytest.mark.usefixtures("ends_at_once")
def test_a_taken_port_is_a_sentence_and_the_default_one_is_not_insisted_on(
    indexed_run: Path, sparsteer: Sparsteer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = sparsteer("serve", indexed_run, "--port", port)
        assert done.status == 2
        assert f"port {port} of 127.0.0.1" in done.error and "0 for any that is free" in done.error
        monkeypatch.setattr("sparsteer.app.browser.server.DEFAULT_PORT", port)
        assert sparsteer("serve", indexed_run).out.startswith("http://127.0.0.1:")


def test_what_is_no_run_or_has_no_index_is_a_sentence(
    run_folder: Path, sparsteer: Sparsteer, tmp_path: Path
) -> None:
    assert sparsteer("serve", tmp_path / "none").status == 2
    done = sparsteer("serve", run_folder, "--port", 0)
    assert done.status == 2 and "features build" in done.error
    assert "port is 70000" in sparsteer("serve", run_folder, "--port", 70000).error


def test_without_its_extra_it_says_what_to_install(
    indexed_run: Path, sparsteer: Sparsteer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "_NEEDED", ("json", "no_such_package"))
    error = sparsteer("serve", indexed_run).error
    assert error == "serve needs no_such_package; install with `pip install 'sparsteer[browser]'`"


def test_threads_of_the_server_take_the_number_of_the_command(
    indexed_run: Path, monkeypatch: pytest.MonkeyPatch, sparsteer: Sparsteer
) -> None:
    """They begin after the verb has given its report."""
    seen = list[int]()

    def look(running: Running) -> None:
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        running.stop()

    def not_now(session: Session) -> None: ...

    monkeypatch.setattr(Session, "start_loading", not_now)
    monkeypatch.setattr(Running, "wait", look)
    monkeypatch.setenv("SPARSTEER_THREADS", "3")
    before = torch.get_num_threads()
    assert before != 3
    assert sparsteer("serve", indexed_run, "--port", 0).status == 0
    assert seen == [3]
    assert torch.get_num_threads() == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0, 2.5, 6.0])
def test_a_signal_ends_it_soon_and_well(
    indexed_run: Path, number: signal.Signals, seconds: float
) -> None:
    """At once, while the language model is read, and after."""
    with served("run", "--port", 0, cwd=indexed_run.parent) as (process, values):
        headers = {"Authorization": f"Bearer {values['token']}"}
        assert httpx.get(f"{values['url']}/api/status", headers=headers).status_code == 200
        time.sleep(seconds)
        began = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 5
    assert process.returncode == 0, err
    assert out == "" and "Traceback" not in err and "error" not in err


@pytest.mark.slow
def test_a_signal_ends_it_while_a_page_waits_and_a_body_is_sent(indexed_run: Path) -> None:
    with served("run", "--port", 0, cwd=indexed_run.parent) as (process, values):
        port = int(values["url"].rpartition(":")[2])
        head = (
            f"POST /api/status HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {values['token']}\r\nContent-Type: application/json\r\n"
            "Content-Length: 100\r\n\r\n{"
        )
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode())
            time.sleep(0.5)
            began = time.monotonic()
            process.terminate()
            out, err = process.communicate(timeout=60)
            assert time.monotonic() - began < 5
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
