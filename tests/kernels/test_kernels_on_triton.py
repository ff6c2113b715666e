"""The Triton kernels without a GPU: run in the interpreter, and compiled for six architectures.

Both need a process of their own, since Triton decides at import whether to interpret.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "triton"
ROOT = Path(__file__).parents[2]
REGISTERS = 65536
PRODUCTS = {"encode_keys_kernel", "products_kernel"}
"""Kernels that must use tensor cores."""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None, reason="Triton is not installed here"
)


FIRST = 90
"""The architecture that is compiled for first; each of the others takes as long again."""
OTHERS = (80, 86, 89, 100, 120)

ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
ENVIRONMENT.pop("TRITON_INTERPRET", None)
PIPES: dict[str, Any] = {
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "text": True,
    "cwd": ROOT,
}


def compiling(*architectures: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(FOLDER / "compile_all.py"), *map(str, architectures)]
    return subprocess.Popen(command, env=ENVIRONMENT, **PIPES)


def interpreting(marked: str) -> subprocess.Popen[str]:
    """The tests of the folder that are marked so, interpreted."""
    # The suite's own run-time type checks would slow the interpreter down and see nothing in it.
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER)]
    environment = ENVIRONMENT | {"TRITON_INTERPRET": "1"}
    return subprocess.Popen([*tests, "-m", marked], env=environment, **PIPES)


@pytest.mark.slow
def test_every_kernel_equals_its_oracle_in_the_interpreter() -> None:
    require_passed(interpreting("not slow"))


@pytest.mark.slow
def test_every_kernel_compiles_without_spills() -> None:
    require_compiled(compiling(FIRST), FIRST)


@pytest.mark.slow
def test_whole_steps_equal_their_oracle_in_the_interpreter() -> None:
    require_passed(interpreting("slow"))


@pytest.mark.slow
def test_every_kernel_compiles_for_other_architectures() -> None:
    require_compiled(compiling(*OTHERS), *OTHERS)


def require_passed(interpreter: subprocess.Popen[str]) -> None:
    output, errors = interpreter.communicate()
    assert interpreter.returncode == 0, output[-20000:] + errors[-2000:]
    assert " passed" in output and "skipped" not in output


def require_compiled(compiler: subprocess.Popen[str], *architectures: int) -> None:
    output, errors = compiler.communicate()
    assert compiler.returncode == 0, errors[-4000:]
    rows = [json.loads(line) for line in output.splitlines()]
    assert {row["arch"] for row in rows} == set(architectures)
    wrong = [
        row
        for row in rows
        if row["spills"] > 0
        or row["shared"] > row["shared_limit"]
        or row["registers"] * 32 * row["warps"] > REGISTERS
        or bool(row["tensor_core"]) != (row["kernel"] in PRODUCTS)
    ]
    assert not wrong, "\n".join(map(str, wrong))
