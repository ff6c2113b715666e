"""The package that docs/extending.md describes: its code, from the page, and installing it."""

import os
import re
import tomllib
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
MODULES = {
    "An activation": "above_mean",
    "A loss term": "l1",
    "A steering edit": "toy_edit",
    "A gate": "toy_gate",
    "A direction": "toy_direction",
    "A fitting method": "toy_fit",
    "A format of steering": "toy_format",
    "A toxicity scorer": "toy_scorer",
    "A way to steer in a study": "toy_way",
    "A selection method": "toy_method",
    "A part of the evaluation suite": "toy_part",
    "A file layout": "toy_layout",
}
"""Of each section of the page, the module that its code is."""
GROUPS = {"activations", "loss_terms", "edits", "gates", "directions", "scorers"} | {
    "fit_methods",
    "selection_methods",
    "study_methods",
    "suite_parts",
    "steering_formats",
    "layouts",
}


def code_of(section: str) -> str:
    """The Python of a section of the page."""
    text = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return code


def install(folder: Path) -> dict[str, str]:
    """Put the package into a folder; the environment of a process that has it, in one thread."""
    for section, module in MODULES.items():
        (folder / f"{module}.py").write_text(code_of(section))
    info = folder / "toy-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(_entry_points())
    return {**os.environ, "PYTHONPATH": str(folder), "SPARSTEER_THREADS": "1"}


def _entry_points() -> str:
    """Those that the page declares, as an installed package has them."""
    declared: dict[str, dict[str, str]] = {}
    for text in re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        declared |= tomllib.loads(text)["project"]["entry-points"]
    assert {f"sparsteer.{group}" for group in GROUPS} == declared.keys()
    lines = [
        f"[{group}]\n" + "\n".join(f"{name} = {place}" for name, place in entries.items())
        for group, entries in declared.items()
    ]
    return "\n\n".join(lines) + "\n"
