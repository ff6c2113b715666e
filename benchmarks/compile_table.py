"""Every launch of every Triton kernel compiled for six GPUs: registers, spills, shared memory and
tensor-core instructions, without a GPU.

    python benchmarks/compile_table.py [--python PYTHON ...] [--architectures 90 100]
    python benchmarks/compile_table.py --rows FILE ...

--python names interpreters of environments, each with its own Triton beside torch and this package.
tests/kernels/triton/compile_all.py, which the tests run too, makes the launches; --rows takes files
of what it has printed, so that it can run in parts. Of each Triton one table lists every launch; a
table over all of them and one by kernel go into docs/kernels.md (`fill_docs.py`). The instructions
are those of NVIDIA's disassembler, which comes with Triton: HMMA and HGMMA (sm_90), or UTC...MMA
(sm_100), as often as they stand in the code, not as often as they run.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from results_file import write_table

ROOT = Path(__file__).parents[1]
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
REGISTERS, MOST_THREADS = 65536, 2048
"""Of a multiprocessor; 86, 89 and 120 run 1536 threads."""

Row = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)


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
    return rows_of(run.stdout)


def rows_of(text: str) -> list[Row]:
    return [json.loads(line) for line in text.splitlines()]


def resident_programs(row: Row) -> int:
    """How many programs of the launch a multiprocessor's registers and threads hold at once."""
    threads = 32 * row["warps"]
    # Registers are given out in eights for each thread.
    in_registers = REGISTERS // (-(-row["registers"] // 8) * 8 * threads)
    most = 1536 if row["arch"] in (86, 89, 120) else MOST_THREADS
    return min(in_registers, most // threads)


def grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """The rows of each key, keys in the order in which they come first."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def name(row: Row) -> str:
    return row["kernel"].removesuffix("_kernel")


def tensor_cores(rows: Iterable[Row]) -> str:
    """The tensor cores' instructions that stand in the code of any of the rows, without counts."""
    return " ".join(sorted({each for row in rows for each in row["tensor_core"]})) or "none"


def line(row: Row) -> list[str]:
    instructions = " ".join(f"{each} {n}" for each, n in sorted(row["tensor_core"].items()))
    return [
        str(row["arch"]),
        name(row),
        row["variant"],
        *(str(row[each]) for each in ("warps", "registers", "spills", "shared", "instructions")),
        str(resident_programs(row)),
        instructions or "none",
    ]


def write_launches(version: str, rows: list[Row]) -> None:
    """The table of every launch under one Triton."""
    spilling = [row for row in rows if row["spills"]]
    note = (
        f"Triton {version}. {len(rows)} launches, {len(spilling)} of them with spills: loads and "
        "stores of local memory in the code. Shared memory is in bytes. Programs: how many of them "
        "a multiprocessor holds at once, by its registers and threads alone. Nothing ran on a GPU."
    )
    header = ["sm", "kernel", "compiled in", "warps", "registers", "spills", "shared"]
    header += ["instructions", "programs", "tensor cores"]
    write_table(f"compiled-triton-{version}", header, [line(row) for row in rows], [note])


def write_versions(rows: list[Row]) -> None:
    """The table of every Triton and architecture."""

    def version_line(version: str, arch: int, launches: list[Row]) -> list[str]:
        spilling = [row for row in launches if row["spills"]]
        kernels = ", ".join(sorted({name(row) for row in spilling}))
        largest = max(launches, key=lambda row: row["registers"])
        shared, limit = max(row["shared"] for row in launches), launches[0]["shared_limit"]
        return [
            version,
            str(arch),
            str(len(launches)),
            f"{len(spilling)} ({kernels})" if spilling else "0",
            str(max(row["spills"] for row in launches)),
            f"{largest['registers']} ({name(largest)})",
            f"{shared / 1024:.0f} of {limit / 1024:.0f}",
            str(sum(row["shared"] > limit for row in launches)),
            tensor_cores(launches),
        ]

    header = ["Triton", "sm", "launches", "that spill", "most spills", "most registers"]
    header += ["most shared memory, KB", "launches over it", "tensor cores"]
    groups = grouped(rows, lambda row: (row["triton"], row["arch"]))
    lines = [version_line(version, arch, found) for (version, arch), found in groups.items()]
    note = (
        "Compiled, not run on a GPU. Spills: loads and stores of local memory in a launch's code. "
        "Shared memory: most of a launch, of what a program may have."
    )
    write_table("compiled", header, lines, [note])


def write_kernels(rows: list[Row]) -> None:
    """The table of every kernel: over its launches, and each Triton and architecture."""
    versions = list(grouped(rows, lambda row: row["triton"]))
    architectures = sorted({row["arch"] for row in rows})
    lines: list[list[str]] = []
    for kernel, found in sorted(grouped(rows, name).items()):
        registers = [
            [row["registers"] for row in found if row["triton"] == version] for version in versions
        ]
        programs = [resident_programs(row) for row in found]
        lines.append(
            [
                kernel,
                str(len({row["variant"] for row in found})),
                "/".join(str(n) for n in sorted({row["warps"] for row in found})),
                *(f"{min(each)} to {max(each)}" if each else "" for each in registers),
                f"{min(programs)} to {max(programs)}",
                f"{max(row['shared'] for row in found) / 1024:.1f}",
                tensor_cores(found),
            ]
        )
    header = ["kernel", "variants", "warps", *(f"registers, Triton {each}" for each in versions)]
    header += ["programs", "most shared memory, KB", "tensor cores"]
    note = (
        f"Over {', '.join(f'sm_{arch}' for arch in architectures)}. Variants: of dtypes and of "
        "what is compiled in. Programs: how many of them a multiprocessor holds at once, by its "
        "registers and threads alone."
    )
    write_table("compiled-kernels", header, lines, [note])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", nargs="+", default=[sys.executable])
    parser.add_argument("--architectures", type=int, nargs="+", default=ARCHITECTURES)
    parser.add_argument("--processes", type=int, default=1, help="architectures at a time")
    parser.add_argument("--rows", type=Path, nargs="+", help="what compile_all.py has printed")
    options = parser.parse_args()
    if options.rows:
        found = [rows_of(path.read_text(encoding="utf-8")) for path in options.rows]
    else:
        with ThreadPoolExecutor(options.processes) as pool:
            pythons, architectures = zip(
                *product(options.python, options.architectures), strict=True
            )
            found = list(pool.map(compiled, pythons, architectures))
    rows = [row for of_one in found for row in of_one]
    rows.sort(key=lambda row: [int(part) for part in row["triton"].split(".")[:2]] + [row["arch"]])
    for version, launches in grouped(rows, lambda row: row["triton"]).items():
        launches.sort(key=lambda row: (row["kernel"], row["variant"], row["arch"]))
        write_launches(version, launches)
    write_versions(rows)
    write_kernels(rows)


if __name__ == "__main__":
    main()
