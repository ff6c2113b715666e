"""The verb `doctor`."""

import importlib.metadata
import importlib.util
import platform
import sys
from dataclasses import dataclass
from typing import Any

from ..sae.common.wording import counted, size
from .console import Report, Terminal
from .machine import (
    TYPICAL,
    Problem,
    cache_space,
    devices,
    extras,
    memory,
    network,
    packages,
    plans,
    training_step,
    triton_state,
)


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """What to look at."""

    network: bool = False
    """Also see whether pip's package index and the Hugging Face hub can be reached."""


def run(options: DoctorOptions, terminal: Terminal) -> Report:
    """Say what is installed, on which device, which kernels run, and what would fail.

    Every problem comes with its remedy. The exit status is 1 if something essential is broken.
    """
    problems: list[Problem] = []
    values: dict[str, Any] = {
        "sparsteer": importlib.metadata.version("sparsteer"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(problems),
        "extras": extras(),
    }
    found = (f"{name} {version or 'missing'}" for name, version in values["packages"].items())
    lines = [
        f"sparsteer {values['sparsteer']}, Python {values['python']}, {values['platform']}",
        f"packages  {', '.join(found)}",
        *_optional(values["extras"]),
    ]
    if importlib.util.find_spec("torch"):
        values |= _hardware(problems, lines)
    values |= _storage(problems, lines)
    if options.network:
        terminal.say("asking pip's index and the hub")
        values["network"] = network(problems)
        answers = (f"{name} {'ok' if ok else 'silent'}" for name, ok in values["network"].items())
        lines.append(f"network   {', '.join(answers)}")
    broken = any(problem.essential for problem in problems)
    values |= {"ok": not broken, "problems": [vars(problem) for problem in problems]}
    lines += [f"problem   {problem.what}: {problem.remedy}" for problem in problems]
    lines.append(_verdict(problems, broken))
    error = "; ".join(f"{p.what}: {p.remedy}" for p in problems if p.essential)
    return Report(values=values, shown=lines, status=int(broken), error=error)


def _optional(extras: dict[str, list[str]]) -> list[str]:
    """Which optional parts are there, and how to get the others."""
    here = [name for name, missing in extras.items() if not missing]
    lines = [f"extras    {', '.join(here) or 'none'}"]
    lines += [
        f"          without {', '.join(missing)}: pip install 'sparsteer[{name}]'"
        for name, missing in extras.items()
        if missing
    ]
    return lines


def _hardware(problems: list[Problem], lines: list[str]) -> dict[str, Any]:
    """Devices, the kernels that run on each, threads and memory."""
    from ..training.runtime.threads import default_threads

    found = devices(problems)
    triton = triton_state()
    for device in found:
        runs = device["kernels"] != "none" and training_step(device["device"], problems)
        device["training_step"] = runs
        works = f"{device['kernels']} kernels, a training step {'runs' if runs else 'fails'}"
        if product := device.get("encoder_product"):
            works += f", the encoder's product by {product}"
        if device.get("screening"):
            works += ", top-k screened in bfloat16"
        lines.append(f"{device['device']:<9} {device['name']}: {works}")
        if device["kernels"] != "none":
            device["plans"] = plans(device["device"])
            lines += _planned(device["plans"])
    cores, threads = found[0]["cores"], default_threads()
    total_bytes, free_bytes = memory(problems)
    lines += [
        f"triton    {triton['note']}",
        f"cores     {cores} for {counted(threads, 'thread')} (SPARSTEER_THREADS sets them)",
        f"memory    {size(free_bytes)} free of {size(total_bytes)}",
    ]
    return {
        "devices": found,
        "triton": triton,
        "threads": threads,
        "memory": {"total_bytes": total_bytes, "free_bytes": free_bytes},
    }


def _planned(plans: dict[str, dict[str, Any]]) -> list[str]:
    """The path that each operator takes at the typical sizes, and why."""
    sizes = (
        f"{TYPICAL['n_rows']:,} rows of width {TYPICAL['width']}, "
        f"{TYPICAL['n_latents']:,} latents, k={TYPICAL['k']}, float32"
    )
    paths = [f"            {name}: {plan['path']} ({plan['why']})" for name, plan in plans.items()]
    return [f"          paths for {sizes}:", *paths]


def _storage(problems: list[Problem], lines: list[str]) -> dict[str, Any]:
    """The cache folder, the dictionaries of this installation, what was fetched, and whether pip is
    there to fetch more."""
    from ..sae.common.shipped import NAMES, is_here
    from ..sae.fetching.fetch import ARTIFACTS, cache_folder, is_fetched

    dictionaries = {name: is_here(name) for name in NAMES}
    folder, free_bytes = cache_folder(), cache_space(problems)
    fetched = {name: is_fetched(name) for name in ARTIFACTS}
    pip = importlib.util.find_spec("pip") is not None
    if not pip:
        problems.append(
            Problem(
                "pip is not installed, so nothing can be fetched by name",
                f"{sys.executable} -m ensurepip",
            )
        )
    here = [name for name, is_here in fetched.items() if is_here]
    others = [name for name, is_here in fetched.items() if not is_here]
    lines.append(f"cache     {folder}, {size(free_bytes)} free on its disk")
    shipped = [name for name, is_there in dictionaries.items() if is_there]
    lines.append(f"built in  {', '.join(shipped) or 'no dictionary'}")
    lines.append(f"fetched   {', '.join(here) or 'nothing yet'}")
    if others:
        lines.append(f"          not yet: {', '.join(others)} (sparsteer fetch NAME)")
    return {
        "cache": {"path": str(folder), "free_bytes": free_bytes},
        "dictionaries": dictionaries,
        "fetched": fetched,
        "pip": pip,
    }


def _verdict(problems: list[Problem], broken: bool) -> str:
    if broken:
        return "not usable before the problems above are mended"
    return "usable, with the limits above" if problems else "all is well"
