"""Every launch of every Triton kernel compiled for six GPUs: registers, spills, shared memory and
tensor-core instructions, without a GPU.

    python benchmarks/compile_table.py [--python PYTHON] [--architectures 90 100]

--python names the interpreter of an environment that has another Triton beside torch and
this package. tests/kernels/triton/compile_all.py, which the tests run too, makes the launches. The
instructions are those of NVIDIA's disassembler, which comes with Triton: HMMA and HGMMA (sm_90), or
UTC...MMA (sm_100), as often as they stand in the code, not as often as they run.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from results_file import write_table

ROOT = Path(__file__).parents[1]
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
REGISTERS, MOST_THREADS = 65536, 2048
"""Of a multiprocessor; 86, 89 and 120 run 1536 threads."""

Row = dict[str, Any]


def compiled(python: str, architecture: int) -> list[Row]:
    """What compile_all.py says of each launch for the architecture.

    Raises:
        subprocess.CalledProcessError: a kernel does not compile; the error goes to stderr.
    """
    script = ROOT / "tests" / "kernels" / "triton" / "compile_all.py"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TRITON_INTERPRET", None)
    run = subprocess.run(
        [python, str(script), str(architecture)],
        env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in run.stdout.splitlines()]


def resident_programs(row: Row) -> int:
    """How many programs of the launch a multiprocessor's registers and threads hold at once."""
    threads = 32 * row["warps"]
    # Registers are given out in eights for each thread.
    in_registers = REGISTERS // (-(-row["registers"] // 8) * 8 * threads)
    most = 1536 if row["arch"] in (86, 89, 120) else MOST_THREADS
    return min(in_registers, most // threads)


def line(row: Row) -> list[str]:
    instructions = " ".join(f"{name} {n}" for name, n in sorted(row["tensor_core"].items()))
    return [
        str(row["arch"]),
        row["kernel"].removesuffix("_kernel"),
        row["variant"],
        *(str(row[name]) for name in ("warps", "registers", "spills", "shared", "instructions")),
        str(resident_programs(row)),
        instructions or "none",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--architectures", type=int, nargs="+", default=ARCHITECTURES)
    parser.add_argument("--processes", type=int, default=1, help="architectures at a time")
    options = parser.parse_args()
    with ThreadPoolExecutor(options.processes) as pool:
        found = pool.map(partial(compiled, options.python), options.architectures)
        rows = sorted(
            (row for of_one in found for row in of_one),
            key=lambda row: (row["kernel"], row["variant"], row["arch"]),
        )
    version = rows[0]["triton"]
    spilling = [row for row in rows if row["spills"]]
    notes = [
        f"Triton {version}. {len(rows)} launches, {len(spilling)} of them with spills: loads and "
        "stores of local memory in the code. Shared memory is in bytes. Programs: how many of them "
        "a multiprocessor holds at once, by its registers and threads alone. Nothing ran on a GPU.",
    ]
    header = ["sm", "kernel", "compiled in", "warps", "registers", "spills", "shared"]
    header += ["instructions", "programs", "tensor cores"]
    write_table(f"compiled-triton-{version}", header, [line(row) for row in rows], notes)


if __name__ == "__main__":
    main()
