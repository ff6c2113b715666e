"""Autoencoders of other libraries in sparsteer and sparsteer's in theirs: the same codes?

    python benchmarks/check_interop.py [--only LAYOUT ...] [--fixtures FOLDER] [--openai CHECKOUT]

Each library runs in an environment of its own (`environments.py`) and writes autoencoders by its
own functions, with the codes and reconstructions that it computes; sparsteer loads them (read).
Sparsteer exports autoencoders, which the libraries load (write), and what it loaded before (there
and back). A difference is the largest absolute one over the largest absolute value, in float32,
over all rows in batches of 1, 7 and all. The command ends with status 1 if one exceeds the goal, or
if an autoencoder is refused that should not be. `--fixtures` also stores small cases for the tests.

OpenAI's library is in no registry; it takes a checkout of github.com/openai/sparse_autoencoder.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from environments import ENVIRONMENTS, FOLDER, python_of
from interop.exchange import Sizes, rows_for
from interop.our_cases import OURS
from results_file import write_table
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] - its path type is an open generic
from torch import Tensor

from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.interop.export import export
from sparsteer.sae.interop.layouts import LAYOUTS, ExportDtype, WritableLayout

GOAL = 1e-5
BATCHES = (1, 7, 1000)
SIZES = Sizes(width=24, latents=96, rows=37)
FIXTURE_SIZES = Sizes(width=8, latents=16, rows=6)
SCRIPTS = Path(__file__).parent / "interop"


@dataclass(frozen=True)
class Library:
    """Whose files are exchanged."""

    layout: str
    """Its layout in sparsteer."""
    script: str
    """Of `interop/`, without its ending."""
    environment: str | None
    """Of `environments.ENVIRONMENTS`; None: sparsteer's own."""
    may_lack: bool = False
    """Whether it is left out where it cannot be installed."""


LIBRARIES = [
    Library("saelens", "sae_lens_cases", "sae-lens"),
    Library("sparsify", "sparsify_cases", "eai-sparsify"),
    Library("dictionary_learning", "dictionary_learning_cases", "dictionary-learning"),
    Library("circuit-tracer", "circuit_tracer_cases", "circuit-tracer", may_lack=True),
    Library("openai", "openai_cases", None),
]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    layout: str
    direction: str
    case: str
    about: str
    codes: float
    reconstruction: float

    @property
    def good(self) -> bool:
        """Whether both differences reach the goal; NaN does not."""
        return self.codes <= GOAL and self.reconstruction <= GOAL

    def shown(self) -> list[str]:
        """Its cells."""
        numbers = [f"{value:.1e}" for value in (self.codes, self.reconstruction)]
        return [self.layout, self.direction, self.case, self.about, *numbers]


class Exchange:
    """Everything between sparsteer and one library."""

    def __init__(self, library: Library, python: str, folder: Path) -> None:
        self.library = library
        self.python = python
        self.theirs, self.ours = folder / "theirs", folder / "ours"
        self.rows: list[Row] = []
        self.refused: list[list[str]] = []
        self.faults: list[str] = []

    def run(self) -> None:
        """Both directions."""
        self.ask("write", self.theirs, SIZES)
        for case in sorted(self.theirs.iterdir()):
            self.read(case)
        if not isinstance(LAYOUTS.get(self.library.layout), WritableLayout):
            return
        for ours in OURS:
            sae, holds = ours.build(SIZES), self.library.layout in ours.layouts
            self.write(f"{ours.name}", ours.about, sae, ours.dtype, holds)
        self.ask("read", self.ours, SIZES)
        for case in sorted(self.ours.iterdir()):
            self.compare_read(case)

    def ask(self, do: str, folder: Path, sizes: Sizes) -> None:
        """Let the library's process write or read the folder."""
        words = ["--width", sizes.width, "--latents", sizes.latents, "--rows", sizes.rows]
        script = SCRIPTS / f"{self.library.script}.py"
        command = [self.python, "-W", "ignore", str(script), do, str(folder), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{done.stdout}{done.stderr}\n{self.library.layout} could not {do}")

    def read(self, case: Path) -> None:
        """Load what the library wrote, compare, and export it again."""
        says = json.loads((case / "case.json").read_text(encoding="utf-8"))
        expected = load_file(case / "expected.safetensors")
        try:
            sae = SparseAutoencoder.load(case / "checkpoint" / says["load"])
        except InputError as error:
            self.faults.append(f"{self.library.layout}, {case.name} is not read: {error}")
            return
        differences = {name: 0.0 for name in ("codes", "reconstruction")}
        for size in BATCHES:
            found = computed(sae, expected["rows"], size)
            for name in differences:
                worst = difference(found[name], expected[name])
                differences[name] = max(differences[name], worst)
        self.rows.append(Row(self.library.layout, "read", case.name, says["about"], **differences))
        if isinstance(LAYOUTS.get(self.library.layout), WritableLayout):
            self.write(case.name, says["about"], sae, "float32", True, expected)

    def write(
        self,
        name: str,
        about: str,
        sae: SparseAutoencoder,
        dtype: ExportDtype,
        holds: bool,
        expected: dict[str, Tensor] | None = None,
    ) -> None:
        """Export an autoencoder for the library to load; `expected` is what the library had."""
        direction = "write" if expected is None else "there and back"
        case = self.ours / f"{direction} {name}"
        try:
            export(sae, case / "checkpoint", self.library.layout, dtype=dtype)
        except InputError as error:
            shutil.rmtree(case, ignore_errors=True)
            if holds:
                self.faults.append(f"{self.library.layout}, {case.name}: not written: {error}")
            else:
                self.refused.append([self.library.layout, direction, name, str(error)])
            return
        if not holds:
            self.faults.append(f"{self.library.layout}, {case.name} is written unexpectedly")
        load = self.file_in(case / "checkpoint")
        if expected is None:
            # Rounded weights are another autoencoder, which sparsteer reads back itself.
            rounded = (
                sae if dtype == "float32" else SparseAutoencoder.load(case / "checkpoint" / load)
            )
            rows_ND = rows_for(SIZES)
            expected = {"rows": rows_ND, **computed(rounded, rows_ND, len(rows_ND))}
        save_file(expected, case / "expected.safetensors")
        says = {"about": about, "load": load}
        (case / "case.json").write_text(json.dumps(says), encoding="utf-8")

    def file_in(self, checkpoint: Path) -> str:
        """What the library loads of an exported folder: the one layer of a set of transcoders."""
        return next((file.name for file in checkpoint.glob("layer_*.safetensors")), "")

    def compare_read(self, case: Path) -> None:
        """Compare what the library read of an export."""
        expected = load_file(case / "expected.safetensors")
        found = load_file(case / "read.safetensors")
        about = json.loads((case / "case.json").read_text(encoding="utf-8"))["about"]
        direction, name = case.name.rsplit(" ", 1)
        differences = {
            name: difference(found[name], expected[name]) for name in ("codes", "reconstruction")
        }
        self.rows.append(Row(self.library.layout, direction, name, about, **differences))


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


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference over the largest absolute value."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max())


def write_fixtures(exchange: Exchange, folder: Path) -> None:
    """Store small cases of the library in place of those that are there."""
    target = folder / exchange.library.layout
    shutil.rmtree(target, ignore_errors=True)
    exchange.ask("write", target, FIXTURE_SIZES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [library.layout for library in LIBRARIES]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--fixtures", type=Path)
    parser.add_argument("--openai", type=Path)
    parser.add_argument("--environments", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    refused: list[list[str]] = []
    faults: list[str] = []
    for library in LIBRARIES:
        if library.layout not in arguments.only:
            continue
        if library.layout == "openai":
            if arguments.openai is None:
                print("openai is left out; give --openai with a checkout", file=sys.stderr)
                continue
            os.environ["OPENAI_SPARSE_AUTOENCODER"] = str(arguments.openai.resolve())
        python = sys.executable
        if library.environment is not None:
            try:
                python = python_of(library.environment, arguments.environments)
            except subprocess.CalledProcessError:
                if not library.may_lack:
                    raise
                print(f"{library.layout} is left out; it cannot be installed", file=sys.stderr)
                continue
        with tempfile.TemporaryDirectory() as folder:
            exchange = Exchange(library, python, Path(folder))
            exchange.run()
            if arguments.fixtures is not None:
                write_fixtures(exchange, arguments.fixtures)
        rows += exchange.rows
        refused += exchange.refused
        faults += exchange.faults
    faults += [f"{row.layout} {row.direction} {row.case} differs" for row in rows if not row.good]
    report(rows, refused)
    if faults:
        raise SystemExit("\n".join(faults))


def report(rows: list[Row], refused: list[list[str]]) -> None:
    """Write and print the tables."""
    versions = [(each.alone or each.packages)[0] for each in ENVIRONMENTS.values()]
    worst = max(max(row.codes, row.reconstruction) for row in rows)
    notes = [
        f"D={SIZES.width} F={SIZES.latents} k={SIZES.k}, {SIZES.rows} rows, float32, in batches of "
        f"1, 7 and all. Largest of all: {worst:.1e}; the goal is {GOAL:.0e}. "
        f"Versions: {', '.join(versions)}.",
        "",
        "Refused, with the reason:",
        "",
        "| layout | direction | autoencoder | reason |",
        "| --- | --- | --- | --- |",
        *("| " + " | ".join(line) + " |" for line in refused),
    ]
    header = ["layout", "direction", "autoencoder", "what is at stake", "codes", "reconstruction"]
    write_table("interop", header, [row.shown() for row in rows], notes)


if __name__ == "__main__":
    main()
