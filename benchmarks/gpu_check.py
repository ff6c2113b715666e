"""All that the GPU path should show on a machine with a GPU, in one call of less than 8 minutes.

    python benchmarks/gpu_check.py [--out benchmarks/results] [--wheels FOLDER]
        [--parts correctness kernels steps peers data tests] [--tiny]

Needs PyTorch with CUDA, Triton, jaxtyping and safetensors; the project need not be installed. Each
part runs in a process of its own with a time limit, and writes a dated table when it ends, so that
a part that fails or is cut short takes nothing from the others. `--wheels` names a folder with
wheels, or unpacked packages, of toolkits to compare with. `--tiny` runs everything at tiny sizes in
Triton's interpreter, to try the check itself on a CPU. Exit status 1 if anything was wrong.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINKS = ROOT / ".typing"
"""Links that make the folders importable as the package, where it is not installed."""
SECONDS = {
    "correctness": 110,
    "kernels": 90,
    "steps": 110,
    "peers": 45,
    "data": 40,
    "tests": 90,
}
"""The parts in order, and how long each may take; what one leaves the last may have."""
SECONDS_IN_ALL = 465
SECONDS_WHEN_TINY = 600
SHORTEST = 5
"""Seconds that a part is started for at least."""

_WRONG = 3
"""Status of a part that ended and found something wrong; 1 is that of an exception."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder of the tables; benchmarks/results")
    parser.add_argument("--wheels", type=Path, help="folder with wheels of other toolkits")
    parser.add_argument("--parts", nargs="+", choices=SECONDS, default=list(SECONDS))
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, interpreted on a CPU")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny and options.out is None:
        parser.error("--tiny needs --out: its figures are not for benchmarks/results")
    if options.wheels and not options.wheels.is_dir():
        parser.error(f"{options.wheels} is not a folder; --wheels names one")
    if find_spec("sparsteer") is None:
        sys.path.insert(0, str(LINKS))
    if options.rows:
        (name,) = options.parts
        sys.exit(_WRONG if run_part(name, options) else 0)
    sys.exit(run_all(options, parser))


def run_all(options: argparse.Namespace, parser: argparse.ArgumentParser) -> bool:
    """Run the parts one after the other and write their tables; whether anything was wrong."""
    missing = [name for name in ("torch", "triton", "jaxtyping", "safetensors") if not _has(name)]
    if missing:
        parser.error(f"{', '.join(missing)} cannot be imported; install what is missing first")
    if not options.tiny and not import_module("torch").cuda.is_available():
        parser.error("PyTorch sees no GPU here; --tiny --out FOLDER tries the check without one")
    from gpu.rows import read_rows
    from gpu.tables import write_part
    from results_file import RESULTS

    # Whoever ends the check ends the part that runs, too.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    folder = options.out or RESULTS
    deadline = time.monotonic() + (SECONDS_WHEN_TINY if options.tiny else SECONDS_IN_ALL)
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.parts:
            left = deadline - time.monotonic()
            limit = left if options.tiny or name == options.parts[-1] else min(SECONDS[name], left)
            file = Path(temporary) / f"{name}.jsonl"
            print(f"== {name}, at most {limit:.0f} s", flush=True)
            end = run_limited(name, options, file, limit)
            rows = read_rows(file)
            if end:
                row: dict[str, Any] = {"case": name, "status": "failed", "why": end, "figures": {}}
                rows.append(row)
            bad += [row["case"] for row in rows if row["status"] in ("wrong", "failed")]
            write_part(name, rows, folder, options.tiny)
    print(f"== {len(bad)} of the cases wrong or failed: {'; '.join(bad) or 'none'}")
    return bool(bad)


def run_limited(name: str, options: argparse.Namespace, file: Path, limit: float) -> str:
    """Run a part as a process of its own; why it ended early, or nothing."""
    if limit < SHORTEST:
        return "no time was left"
    command = [sys.executable, __file__, "--parts", name, "--rows", str(file)]
    command += ["--tiny", "--out", str(options.out)] if options.tiny else []
    command += ["--wheels", str(options.wheels)] if options.wheels else []
    environment = dict(os.environ)
    if options.tiny:
        # Threads of one process that wait for each other are slow where others compute, too.
        environment |= {"OMP_NUM_THREADS": "1"}
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    else:
        environment.pop("TRITON_INTERPRET", None)
    if str(LINKS) in sys.path:  # for processes that the part starts
        earlier = [environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else []
        environment["PYTHONPATH"] = os.pathsep.join([str(LINKS), *earlier])
    # A session of its own, so that whatever the part has started ends with it.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"cut short after {limit:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return "" if status in (0, _WRONG) else f"ended with status {status}"


def run_part(name: str, options: argparse.Namespace) -> bool:
    """Run one part in this process; whether anything was wrong."""
    from gpu.device import Cuda, InterpretedDevice
    from gpu.rows import Rows

    rows = Rows(options.rows)
    device = InterpretedDevice() if options.tiny else Cuda()
    import_module("torch").manual_seed(0)
    if options.wheels:
        from gpu.peers import add_wheels

        add_wheels(options.wheels)
    match name:
        case "correctness":
            from gpu.operator_checks import check_operators
            from gpu.step_checks import check_steps

            check_operators(device, rows, options.tiny)
            check_steps(device, rows, options.tiny)
        case "kernels":
            from gpu.kernel_times import time_kernels

            time_kernels(device, rows, options.tiny)
        case "steps":
            from gpu.step_times import time_steps

            time_steps(device, rows, options.tiny)
        case "peers":
            from gpu.peers import time_peers

            time_peers(device, rows, options.tiny)
        case "data":
            from gpu.data_rates import measure_data

            measure_data(device, rows, options.tiny)
        case _:
            from gpu.project_tests import run_tests

            run_tests(device, rows, options.tiny)
    return rows.n_bad > 0


def _exit_on_signal(number: int, _: object) -> None:
    sys.exit(128 + number)


def _has(name: str) -> bool:
    return find_spec(name) is not None


if __name__ == "__main__":
    main()
