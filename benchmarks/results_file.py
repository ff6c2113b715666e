"""Where a benchmark's figures go: a dated Markdown file that names the machine."""

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """One line: device, cores used, versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return (
        f"{device}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {version('torch')}, sparsteer {version('sparsteer')}"
    )


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_table(name: str, header: list[str], rows: list[list[str]], notes: list[str]) -> Path:
    """Write `results/DATE-NAME.md`, print it, and return its path."""
    lines = [f"# {name}", "", f"{datetime.now(UTC):%Y-%m-%d}: {machine()}", ""]
    lines += [f"Command: `python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`", ""]
    lines += ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    lines += ["", *notes, ""]
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{name}.md"
    RESULTS.mkdir(exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))
    return path
