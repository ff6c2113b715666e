"""What the processes of `check_interop.py` share: sizes, rows, weights, and the files between them.

A process runs in the environment of one library and imports nothing of sparsteer. `write` saves
autoencoders by the library's own functions, each in a folder of its own:

    CASE/checkpoint/     the library's files
    CASE/case.json       what the case is about, and which path below checkpoint/ to load
    CASE/expected.safetensors    rows [N, D]; codes [N, F] and reconstruction [N, D] of the library

`read` loads such folders, written by sparsteer and without codes, and adds `read.safetensors` with
the codes and the reconstruction that the library computes.
"""

import argparse
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] - its path type is an open generic
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """How large the cases are."""

    width: int
    latents: int
    rows: int

    @property
    def k(self) -> int:
        """Latents of a row in top-k cases."""
        return max(4, self.latents // 6)


@dataclass(frozen=True)
class Coder:
    """An autoencoder of the library."""

    encode: Callable[[Tensor], Tensor]
    """Dense codes [N, F] of rows [N, D]."""
    reconstruct: Callable[[Tensor], Tensor]
    """Reconstructions or predictions [N, D] from rows [N, D]."""


@dataclass(frozen=True)
class Case:
    """One autoencoder that the library writes."""

    name: str
    about: str
    """What a wrong reader would get wrong."""
    write: Callable[[Sizes, Path], Coder]
    """Save it into the empty folder; give it as the library has it."""
    load: str = ""
    """The path below the folder that names the autoencoder, if it is not the folder."""


class Weights(dict[str, Tensor]):
    """Random tensors under the names of SAELens, with decoder rows of norms 0.3 to 3.

    W_enc [D, F], b_enc [F], W_dec [F, D], b_dec [D], W_skip [D, D], threshold [F] and for gated
    autoencoders b_gate [F], b_mag [F], r_mag [F].
    """

    def __init__(self, sizes: Sizes, name: str, bias: float = 0.0) -> None:
        """Weights that depend on sizes and name; `bias` is added to every pre-activation."""
        super().__init__()
        D, F = sizes.width, sizes.latents
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator)

        directions_FD = torch.nn.functional.normalize(normal(F, D), dim=-1)
        norms_F = 0.3 + 2.7 * uniform(F)
        self["W_dec"] = directions_FD * norms_F[:, None]
        self["W_enc"] = (directions_FD + 0.3 * normal(F, D) / D**0.5).T.contiguous()
        self["b_enc"] = 0.3 * normal(F) + bias
        self["b_dec"] = normal(D)
        self["W_skip"] = normal(D, D) / D**0.5
        self["threshold"] = 0.2 + uniform(F)
        self["b_gate"] = 0.3 * normal(F) - 0.2
        self["b_mag"] = 0.3 * normal(F)
        self["r_mag"] = 0.3 * normal(F)

    def take(self, *names: str) -> dict[str, Tensor]:
        """Copies of some of them."""
        return {name: self[name].clone() for name in names}


def rows_for(sizes: Sizes) -> Tensor:
    """Rows [N, D] of different norms about a common mean."""
    generator = torch.Generator().manual_seed(11)
    rows_ND = torch.randn(sizes.rows, sizes.width, generator=generator)
    norms_N1 = (0.7 * torch.randn(sizes.rows, 1, generator=generator)).exp()
    return 1.5 * norms_N1 * rows_ND + torch.randn(sizes.width, generator=generator)


@torch.no_grad()
def run(cases: Mapping[str, list[Case]], load: Callable[[Path], Coder] | None = None) -> None:
    """The command of a library's process: `write LAYOUT FOLDER` or `read LAYOUT FOLDER`.

    Args:
        cases: by the layout that sparsteer calls their files.
        load: the library's loader; None where nothing of sparsteer's is read.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("do", choices=["write", "read"])
    parser.add_argument("layout", choices=cases)
    parser.add_argument("folder", type=Path)
    for name in ("width", "latents", "rows"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.do == "write":
        sizes = Sizes(given.width, given.latents, given.rows)
        for case in cases[given.layout]:
            _write(case, sizes, given.folder / case.name)
    elif load is not None:
        for folder in sorted(given.folder.iterdir()):
            rows_ND = load_file(folder / "expected.safetensors")["rows"]
            says = json.loads((folder / "case.json").read_text(encoding="utf-8"))
            coder = load(folder / "checkpoint" / says["load"])
            save_file(_computed(coder, rows_ND), folder / "read.safetensors")


def _write(case: Case, sizes: Sizes, folder: Path) -> None:
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    torch.default_generator.manual_seed(0)
    coder, rows_ND = case.write(sizes, checkpoint), rows_for(sizes)
    save_file({"rows": rows_ND, **_computed(coder, rows_ND)}, folder / "expected.safetensors")
    says = {"about": case.about, "load": case.load}
    (folder / "case.json").write_text(json.dumps(says, indent=1) + "\n", encoding="utf-8")


def _computed(coder: Coder, rows_ND: Tensor) -> dict[str, Tensor]:
    found = {"codes": coder.encode(rows_ND), "reconstruction": coder.reconstruct(rows_ND)}
    return {name: tensor.detach().float().contiguous() for name, tensor in found.items()}
