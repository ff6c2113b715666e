"""The check for a GPU machine: all of it runs at tiny sizes without one, and says what is wrong."""

import argparse
import subprocess
import sys
import time
import venv
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"
NEEDED = ["torch", "triton", "numpy", "jaxtyping", "safetensors"]
"""All that the check needs, with what these need; NumPy is in every build of torch with CUDA."""

without_triton = pytest.mark.skipif(
    sys.platform != "linux", reason="Triton is for Linux, where the kernels can be interpreted"
)


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # pyright: ignore[reportUnknownMemberType] - untyped


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that finds nothing but the needed packages: no sparsteer, tyro or beartype."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    for name in with_requirements(NEEDED):
        installed = distribution(name)
        tops = {file.parts[0] for file in installed.files or [] if not file.parts[0] == ".."}
        for top in tops:
            if not (site_packages / top).exists():
                (site_packages / top).symlink_to(Path(str(installed.locate_file(top))))
    return folder / "bin" / "python"


def with_requirements(names: list[str]) -> set[str]:
    """The packages and all that they require here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            requirements = map(Requirement, distribution(name).requires or [])
        except PackageNotFoundError:
            continue
        found.add(name)
        needed = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
        waiting += [requirement.name for requirement in needed]
    return found


PARTS = {
    "correctness": ["autoencoder_mse", "same_bits yes", "waits_for_nothing yes", "captured yes"],
    "kernels": ["ceilings", "copy_gb_per_s", "encode_topk", "torch.topk", "adam_step_, unit rows"],
    "steps": ["0 dead", "2 dead", "Longest kernels"],
    "peers": ["plain PyTorch, embedding_bag", "not there: sparsify", "not there: sae_lens"],
    "data": ["loader, width 16, bfloat16", "not there: No module named 'transformers'"],
    "tests": ["not there: pytest"],
}
"""What the table of each part must hold in the bare environment."""


@without_triton
@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_every_part_runs_where_only_torch_and_triton_are(
    part: str, bare_python: Path, tmp_path: Path
) -> None:
    command = [bare_python, SCRIPT, "--tiny", "--out", tmp_path, "--parts", part]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
    (table,) = tmp_path.glob(f"????-??-??-tiny-gpu-{part}.md")
    text = table.read_text(encoding="utf-8")
    assert "(not installed)" in text
    assert "| failed:" not in text and "| wrong:" not in text
    for expected in PARTS[part]:
        assert expected in text


@without_triton
@pytest.mark.slow
@pytest.mark.parametrize("part", ["data", "tests"])
def test_what_needs_more_runs_in_a_whole_environment(part: str, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--tiny", "--out", tmp_path, "--parts", part]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
    (table,) = tmp_path.glob(f"*-tiny-gpu-{part}.md")
    assert "not there" not in table.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--tiny"], "--tiny needs --out"),
        (["--wheels", "nowhere"], "nowhere is not a folder"),
        (["--parts", "speed"], "invalid choice"),
    ],
)
def test_wrong_options_are_told_with_the_remedy(
    words: list[str],
    remedy: str,
    benchmarks: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *words])
    with pytest.raises(SystemExit) as error:
        import_module("gpu_check").main()
    assert error.value.code == 2
    assert remedy in capsys.readouterr().err


def test_a_case_that_fails_or_is_wrong_is_a_line_and_the_next_runs(
    benchmarks: None, tmp_path: Path
) -> None:
    rows_module: Any = import_module("gpu.rows")
    rows = rows_module.Rows(tmp_path / "part.jsonl")

    def wrong() -> Any:
        found = rows_module.Judged()
        found.at_most("error", float("nan"), 0.1)
        found.holds("same_bits", True)
        return found

    def missing() -> Any:
        raise rows_module.NotThere("a wheel")

    rows.run("wrong", wrong)
    rows.run("raises", lambda: 1 / 0)
    rows.run("missing", missing)
    rows.run("right", lambda: rows_module.Judged().note(ms=2.0))
    with rows.path.open("a") as file:
        file.write('{"case": "cut in the mid')
    found = rows_module.read_rows(rows.path)
    assert [row["status"] for row in found] == ["wrong", "failed", "not there", "ok"]
    assert found[0]["why"] == "error is nan, above 0.1"
    assert found[1]["why"] == "ZeroDivisionError: division by zero"
    assert rows.n_bad == 2
    assert rows_module.read_rows(tmp_path / "none.jsonl") == []


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_cut_and_its_lines_stay(
    benchmarks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_check: Any = import_module("gpu_check")
    script = tmp_path / "part.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "file = open(sys.argv[sys.argv.index('--rows') + 1], 'w')\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, file=file, flush=True)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    monkeypatch.setattr(gpu_check, "SHORTEST", 0.1)
    options = argparse.Namespace(tiny=False, out=None, wheels=None)
    lines = tmp_path / "lines"
    assert gpu_check.run_limited("steps", options, lines, 4.0) == "cut short after 4 s"
    child = int(lines.read_text())
    status, deadline = Path(f"/proc/{child}/status"), time.monotonic() + 10
    while status.exists() and "zombie" not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert gpu_check.run_limited("steps", options, lines, 0.05) == "no time was left"


def test_failures_of_the_project_s_tests_are_named(benchmarks: None, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="a" name="one"/>'
        '<testcase classname="a" name="two"><failure/></testcase>'
        '<testcase classname="b" name="three"><error/></testcase>'
        '<testcase classname="b" name="four"><skipped/></testcase>'
        "</testsuite></testsuites>"
    )
    found: Any = import_module("gpu.project_tests").read_report(report)
    assert found.figures == {"passed": 1, "failed": 2, "skipped": 1}
    assert found.wrong == ["a::two", "b::three"]


def test_tables_name_the_version_of_a_checkout_that_is_not_installed(
    benchmarks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    results_file: Any = import_module("results_file")

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(results_file, "version", missing)
    assert results_file.project_version().endswith(" (not installed)")
    assert results_file.project_version()[0].isdigit()
    assert results_file.project_version() in results_file.machine()
