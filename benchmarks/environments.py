"""Other toolkits in environments of their own, made with pip once they are needed.

An environment lies over the one that runs this: whatever is installed there, torch above all, is
found, unless the toolkit needs another version, which then comes into its own environment.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

FOLDER = Path(".peers")
"""Where the environments lie, each in the folder of its name."""


@dataclass(frozen=True)
class Environment:
    """What one environment holds."""

    packages: tuple[str, ...]
    """Requirements, installed with all that they need."""

    alone: tuple[str, ...] = ()
    """Requirements that are installed without what they ask for."""


ENVIRONMENTS = {
    "sae-lens": Environment(("sae-lens==6.54.12", "transformer-lens<4")),
    "eai-sparsify": Environment(("eai-sparsify==1.3.3",)),
    # nnsight asks for torchvision and diffusers, which nothing here imports.
    "dictionary-learning": Environment(
        ("python-socketio[client]", "zstandard"),
        alone=("dictionary-learning==0.1.0", "nnsight==0.3.7"),
    ),
    # It also asks for a client of a service, which nothing here imports.
    "llamascopium": Environment(
        (
            *("transformer-lens<4", "cattrs", "json-repair", "more-itertools"),
            *("pydantic-settings", "pymongo", "tomlkit"),
        ),
        alone=("llamascopium==2.0.0b34",),
    ),
    "circuit-tracer": Environment(("circuit-tracer==0.5",)),
}


def python_of(name: str, folder: Path = FOLDER) -> str:
    """The interpreter of an environment, which is made if it is missing.

    Raises:
        subprocess.CalledProcessError: pip could not install it.
    """
    environment, home = ENVIRONMENTS[name], folder / name
    python, stamp = home / "bin" / "python", home / "installed"
    wanted = repr(environment)
    if stamp.is_file() and stamp.read_text() == wanted:
        return str(python)
    print(f"installing {name} into {home}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    (site_packages,) = home.glob("lib/python*/site-packages")
    shared = Path(torch.__file__).parents[1]
    (site_packages / "shared.pth").write_text(f"{shared.resolve()}\n")
    constraints = home / "constraints.txt"
    constraints.write_text(f"torch=={torch.__version__.partition('+')[0]}\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
    if environment.alone:
        subprocess.run([*pip, "--no-deps", *environment.alone], check=True)
    subprocess.run([*pip, *environment.packages], check=True)
    stamp.write_text(wanted)
    return str(python)
