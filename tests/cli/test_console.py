"""JSON without NaN, progress in lines, numbers for people."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from sparsteer.cli import console
from sparsteer.cli.console import (
    Report,
    Terminal,
    next_command,
    print_json,
    table,
    write_report,
)
from sparsteer.sae.common.wording import duration, percent, size


def test_json_has_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"a": math.nan, "b": [1.5, -math.inf], "c": {"d": (Path("x"), True, None)}, "e": "é"}
    print_json(values)
    found = json.loads(capsys.readouterr().out)
    assert found == {"a": None, "b": [1.5, None], "c": {"d": ["x", True, None]}, "e": "é"}


def test_a_warning_is_in_each_file_once() -> None:
    """In standard output for whoever keeps only that, and once where both go to one file."""
    code = """
from sparsteer.cli import main as module
from sparsteer.cli.arguments import Verb
from sparsteer.cli.console import Report
from sparsteer.cli.fetch import FetchOptions
def run(options, terminal):
    "Act."
    return Report(values={}, shown=("done",), warnings=("it is odd",))
module.VERBS["fetch"] = Verb(config=FetchOptions, run=run, positional=("name",))
raise SystemExit(module.main(["fetch", "news"]))
"""
    words = [sys.executable, "-c", code]
    for error in (subprocess.PIPE, subprocess.STDOUT):
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=error, text=True, check=True, timeout=120
        )
        assert done.stdout == "done\nwarning: it is odd\n"
        assert done.stderr == ("warning: it is odd\n" if error == subprocess.PIPE else None)


def test_a_report_keeps_brackets_and_long_lines_whole(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/data/[bold]" + "x" * 300
    write_report(Report(values={}, shown=(path, table(("FVU", "0.5", "how to read it")))))
    assert capsys.readouterr().out == f"{path}\nFVU  0.5  how to read it\n"


def test_progress_is_a_line_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Terminal().progress("training", "rows") as update:
        for done in range(1000, 20_001, 1000):  # a second each, one line in five and the last
            update(done, 20_000, f"FVU {done}")
            now += 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "training: 1,000 of 20,000 rows, FVU 1000",
        "training: 6,000 of 20,000 rows, 1,000 rows/s, 14.0 s left, FVU 6000",
        "training: 11,000 of 20,000 rows, 1,000 rows/s, 9.0 s left, FVU 11000",
        "training: 16,000 of 20,000 rows, 1,000 rows/s, 4.0 s left, FVU 16000",
        "training: 20,000 of 20,000 rows, 1,000 rows/s, FVU 20000",
    ]


def test_the_pace_is_that_of_the_last_half_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Terminal().progress("caching", "rows") as update:
        update(0, 9000, "")
        now += 1
        update(6000, 9000, "")  # what an earlier run did
        for done in range(6010, 6401, 10):
            now += 1
            update(done, 9000, "")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "caching: 6,390 of 9,000 rows, 10 rows/s, 4:21 left"


def test_slow_units_have_seconds_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Terminal().progress("generating", "conditions") as update:
        for done in range(3):
            update(done, 3, "")
            now += 12.5
    assert capsys.readouterr().err.splitlines()[1:] == [
        "generating: 1 of 3 conditions, 12.5 s each, 25.0 s left",
        "generating: 2 of 3 conditions, 12.5 s each, 12.5 s left",
    ]


def test_progress_on_a_terminal_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    with terminal.progress("training", "rows") as update:
        update(100, 400, "FVU 0.5")
        terminal.say("a sentence")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "25%" in captured.err
    assert "FVU 0.5" in captured.err
    assert "a sentence\n" in captured.err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59, "59.0 s"), (61, "1:01"), (7199.6, "2:00:00")]
)
def test_durations(seconds: int | float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(7, "7 bytes"), (1500, "1.5 kB"), (92.9e6, "92.9 MB"), (3e9, "3.0 GB")]
)
def test_sizes(n_bytes: int | float, text: str) -> None:
    assert size(n_bytes) == text


def test_shares_and_quoting() -> None:
    assert percent(0.1234) == "12.3%"
    assert next_command("eval", "my run") == "next: sparsteer eval 'my run'"


HOSTILE = "\x1b]0;title\x07\x1b[2J\x1b[31mname\u202e"


def test_nothing_that_is_shown_can_move_the_cursor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    terminal = Terminal()
    terminal.say(f"{HOSTILE}\nsecond")
    with terminal.progress(HOSTILE, "rows") as update:
        update(1, 2, HOSTILE)
    shown = (HOSTILE, next_command("eval", HOSTILE), table((HOSTILE, HOSTILE, HOSTILE)))
    write_report(Report(values={}, shown=shown))
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert text.count("⟨U+001B⟩]0;title") >= 2
        assert all(line.isprintable() for line in text.splitlines())
    assert captured.err.splitlines()[0].endswith("⏎second")


def test_a_terminal_gets_no_codes_but_those_of_the_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    terminal.say(HOSTILE)
    with terminal.progress(HOSTILE, "rows") as update:
        update(1, 2, HOSTILE)
    with terminal.live() as show:
        show(HOSTILE)
    err = capsys.readouterr().err
    assert "\x1b" in err, "a bar moves the cursor"
    assert "\x1b]0;" not in err and "\x1b[2J" not in err and "\x07" not in err
