"""Where a benchmark's figures go: a dated Markdown file that names the machine."""

import platform
import sys
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """One line: device, cores used, versions."""
    return (
        f"{device()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}, sparsteer {project_version()}"
    )


def device() -> str:
    """The GPU with its driver's CUDA and Triton, or the processor."""
    if not torch.cuda.is_available():
        return processor()
    try:
        triton = f"Triton {version('triton')}"
    except PackageNotFoundError:
        triton = "no Triton"
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {triton}"


def project_version() -> str:
    """Of the installed package, or of the checkout where none is installed."""
    try:
        return version("sparsteer")
    except PackageNotFoundError:
        settings = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
        return f"{tomllib.loads(settings)['project']['version']} (not installed)"


def processor() -> str:
    """The processor's name where the system tells it."""
    return _processor_facts().get("model name") or platform.processor() or platform.machine()


def processor_model() -> str:
    """Family and model in parentheses, which tell generations of one name apart; empty where the
    system does not say."""
    facts = _processor_facts()
    if "cpu family" not in facts or "model" not in facts:
        return ""
    return f" (family {facts['cpu family']}, model {facts['model']})"


def _processor_facts() -> dict[str, str]:
    """What Linux says of the first processor."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def write_table(
    name: str,
    header: list[str],
    rows: list[list[str]],
    notes: list[str],
    folder: Path = RESULTS,
) -> Path:
    """Write `FOLDER/DATE-NAME.md`, print it, and return its path."""
    table = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    path = write_texts(name, ["\n".join(table), "\n".join(notes)], folder)
    print(path.read_text(encoding="utf-8"))
    return path


def write_texts(
    name: str, texts: Sequence[str], folder: Path = RESULTS, *, command: str | None = None
) -> Path:
    """Write `FOLDER/DATE-NAME.md`: machine and command (by default the one that runs), then the
    texts, each a paragraph or a table; return its path."""
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    command = command or " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    head = [f"# {name}", f"{today}: {machine()}", f"Command: `{command}`"]
    path = folder / f"{today}-{name}.md"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join([*head, *texts]) + "\n", encoding="utf-8")
    return path
