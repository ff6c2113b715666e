"""One library's side of `check_interop.py`: what it writes, and what it loads of sparsteer's."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] - its path type is an open generic
from torch import Tensor

from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.interop.export import export
from sparsteer.sae.interop.layouts import LAYOUTS, ExportDtype, WritableLayout

from .exchange import Sizes, rows_for
from .our_cases import OURS

BATCHES = (1, 7, 1000)
SIZES = Sizes(width=24, latents=96, rows=37)
FIXTURE_SIZES = Sizes(width=8, latents=16, rows=6)


@dataclass(frozen=True)
class Library:
    """Whose files are exchanged."""

    layout: str
    """Its layout in sparsteer."""
    script: str
    """Of this folder, without its ending."""
    environment: str | None
    """Of `environments.ENVIRONMENTS`; None: sparsteer's own."""
    may_lack: bool = False
    """Whether it is left out where it cannot be installed."""

    @property
    def writable(self) -> bool:
        """Whether sparsteer exports for it."""
        return isinstance(LAYOUTS.get(self.layout), WritableLayout)


LIBRARIES = [
    Library("saelens", "sae_lens_cases", "sae-lens"),
    Library("sparsify", "sparsify_cases", "eai-sparsify"),
    Library("dictionary_learning", "dictionary_learning_cases", "dictionary-learning"),
    Library("circuit-tracer", "circuit_tracer_cases", "circuit-tracer", may_lack=True),
    Library("openai", "openai_cases", None),
    Library("llama_scope", "llamascopium_cases", "llamascopium"),
    Library("gemma_scope", "release_cases", "sae-lens"),
    Library("goodfire", "release_cases", "sae-lens"),
    Library("qwen_scope", "release_cases", "sae-lens"),
]


class Loaded(NamedTuple):
    """An autoencoder that a library wrote and sparsteer loaded."""

    layout: str
    name: str
    about: str
    sae: SparseAutoencoder
    expected: dict[str, Tensor]
    """Rows, and the library's codes and reconstruction of them."""


class Row(NamedTuple):
    """One autoencoder in one direction."""

    layout: str
    direction: str
    """read, write, there and back, or `from LAYOUT`."""
    case: str
    about: str
    codes: float
    reconstruction: float


class Exchange:
    """Everything between sparsteer and one library.

    Attributes:
        rows: how much codes and reconstructions differ.
        refused: layout, autoencoder and reason, of what the library cannot hold.
        faults: sentences about what should not have been refused, or should have been.
    """

    def __init__(self, library: Library, python: str, folder: Path) -> None:
        self.library = library
        self.rows: list[Row] = []
        self.refused: list[list[str]] = []
        self.faults: list[str] = []
        self._python = python
        self._theirs, self._ours = folder / "theirs", folder / "ours"
        self._pending: list[tuple[Path, str, str, str]] = []

    def read(self) -> list[Loaded]:
        """Let the library write its cases, load them, and compare."""
        self._ask("write", self._theirs, SIZES)
        found: list[Loaded] = []
        for case in sorted(self._theirs.iterdir()):
            says = json.loads((case / "case.json").read_text(encoding="utf-8"))
            expected = load_file(case / "expected.safetensors")
            try:
                sae = SparseAutoencoder.load(case / "checkpoint" / says["load"])
            except InputError as error:
                self.faults.append(f"{self.library.layout}, {case.name} is not read: {error}")
                continue
            loaded = Loaded(self.library.layout, case.name, says["about"], sae, expected)
            differences = [
                _differences(computed(sae, expected["rows"], n), expected) for n in BATCHES
            ]
            worst = [max(column) for column in zip(*differences, strict=True)]
            self.rows.append(Row(self.library.layout, "read", *loaded[1:3], *worst))
            found.append(loaded)
        return found

    def write(self, loaded: list[Loaded]) -> None:
        """Export for the library what sparsteer trains, and what it loaded; let it load that."""
        for ours in OURS:
            sae = ours.build(SIZES)
            refusal = self._export(sae, "write", ours.name, ours.about, dtype=ours.dtype)
            if refusal is not None:
                self.refused.append([self.library.layout, ours.name, refusal])
            if (refusal is None) != (self.library.layout in ours.layouts):
                self.faults.append(
                    f"{self.library.layout}, {ours.name} is {'' if refusal is None else 'not '}"
                    f"written: {refusal}"
                )
        for layout, name, about, sae, expected in loaded:
            own = layout == self.library.layout
            direction = "there and back" if own else f"from {layout}"
            refusal = self._export(sae, direction, name, about, expected)
            if own and refusal is not None:
                self.faults.append(f"{layout}, {name} is not written again: {refusal}")
        self._ask("read", self._ours, SIZES)
        for case, direction, name, about in self._pending:
            expected = load_file(case / "expected.safetensors")
            differences = _differences(load_file(case / "read.safetensors"), expected)
            self.rows.append(Row(self.library.layout, direction, name, about, *differences))

    def write_fixtures(self, folder: Path) -> None:
        """Store small cases of the library in place of those that are there."""
        target = folder / self.library.layout
        shutil.rmtree(target, ignore_errors=True)
        self._ask("write", target, FIXTURE_SIZES)

    def _export(
        self,
        sae: SparseAutoencoder,
        direction: str,
        name: str,
        about: str,
        expected: dict[str, Tensor] | None = None,
        dtype: ExportDtype = "float32",
    ) -> str | None:
        """Export a case for the library to load; the reason if that is refused."""
        case = self._ours / f"{len(self._pending):03}"
        try:
            export(sae, case / "checkpoint", self.library.layout, dtype=dtype)
        except InputError as error:
            shutil.rmtree(case, ignore_errors=True)
            return str(error)
        # Of a set of transcoders it loads one layer.
        layers = (file.name for file in (case / "checkpoint").glob("layer_*.safetensors"))
        load = next(layers, "")
        if expected is None:
            # Rounded weights are another autoencoder, which sparsteer reads back itself.
            if dtype != "float32":
                sae = SparseAutoencoder.load(case / "checkpoint" / load)
            rows_ND = rows_for(SIZES)
            expected = {"rows": rows_ND, **computed(sae, rows_ND, len(rows_ND))}
        save_file(expected, case / "expected.safetensors")
        says = {"about": about, "load": load}
        (case / "case.json").write_text(json.dumps(says), encoding="utf-8")
        self._pending.append((case, direction, name, about))
        return None

    def _ask(self, do: str, folder: Path, sizes: Sizes) -> None:
        """Let the library's process write or read the folder."""
        words = ["--width", sizes.width, "--latents", sizes.latents, "--rows", sizes.rows]
        script = Path(__file__).with_name(f"{self.library.script}.py")
        given = [str(script), do, self.library.layout, str(folder), *map(str, words)]
        command = [self._python, "-W", "ignore", *given]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{done.stdout}{done.stderr}\n{self.library.layout} could not {do}")


@torch.no_grad()
def computed(sae: SparseAutoencoder, rows_ND: Tensor, size: int) -> dict[str, Tensor]:
    """Dense codes in raw units and reconstructions of rows in batches of a size."""
    codes: list[Tensor] = []
    reconstructions: list[Tensor] = []
    for start in range(0, len(rows_ND), size):
        batch_BD = rows_ND[start : start + size]
        found = sae.encode(batch_BD)
        codes.append(found.dense(sae.config.n_latents) / sae.decoder_scale)
        reconstructions.append(sae.reconstruct(batch_BD, found))
    return {"codes": torch.cat(codes), "reconstruction": torch.cat(reconstructions)}


def _differences(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, float]:
    return (
        difference(found["codes"], expected["codes"]),
        difference(found["reconstruction"], expected["reconstruction"]),
    )


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference over the largest absolute value."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max())
