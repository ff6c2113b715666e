"""How good is the rule for batch size, learning rate and dead window? A search for better values at
several numbers of tokens, widths and activations, each beside what the rule gives.

    python benchmarks/search_defaults.py CACHE RUNS [--tokens 200000 1000000 5000000]
        [--latents 4608 12288] [--activations topk] [--l0 32] [--seed 0] [--most 14]

Coordinate descent from the rule's values: the rate by factors of the square root of 2, the batch by
factors of 2 together with the rate, the dead window along `DEAD_SHARES` of the run. What is
compared is FVU on held-out rows. The cheapest cases come first. Give a cache that holds the tokens:
rows that come again favor other values than fresh ones.

Each try is kept in RUNS/tries.jsonl, so that the same command goes on where it was interrupted, and
so does the run in hand, from its checkpoint. The table is written after every case.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from descent import Place, descend
from results_file import write_table

from sparsteer.sae.common.files import remove_folder
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.defaults import TrainingDefaults, derived_defaults
from sparsteer.training.non_finite import NonFiniteLoss
from sparsteer.training.train import train
from sparsteer.training.trainer_config import TrainerConfig

DEAD_SHARES = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
LR_UNIT = 1e-3
LEAST_BATCH = 32
STEPS = ((0, 1, 0), (1, 1, 0), (0, 0, 1))
"""On the lattice (batch, rate, dead window), whose unit is a factor of 2, of its root, a share."""


@dataclass(frozen=True)
class Case:
    """What is given; the rest is searched for."""

    tokens: int
    n_latents: int
    activation: str
    l0: int
    seed: int


class Tries:
    """What was tried, each with the held-out measures that it came to, in a file of lines."""

    def __init__(self, folder: Path, cache: str) -> None:
        self.folder, self.cache = folder, cache
        self._file = folder / "tries.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self._found = {
            _key(line["case"], line["settings"]): line for line in map(json.loads, lines)
        }

    def held_out(self, case: Case, settings: TrainingDefaults) -> dict[str, Any]:
        """The measures of the settings, trained now unless they were before."""
        line: dict[str, Any] = {"case": asdict(case), "settings": asdict(settings)}
        key = _key(line["case"], line["settings"])
        if key not in self._found:
            line |= self._trained(case, settings)
            with self._file.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self._found[key] = line
        return self._found[key]

    def _trained(self, case: Case, settings: TrainingDefaults) -> dict[str, Any]:
        """Train into a folder that is removed at the end."""
        out = self.folder / "in-hand"
        described = self.folder / "in-hand.json"
        text = json.dumps([asdict(case), asdict(settings)])
        if not described.exists() or described.read_text() != text:
            if out.exists():
                remove_folder(out)
            described.write_text(text)
        trainer = TrainerConfig(
            tokens=case.tokens,
            batch_size=settings.batch_size,
            lr=settings.lr,
            dead_after_tokens=settings.dead_after_tokens,
            target_l0=case.l0 if case.activation in ("jumprelu", "top_afa") else None,
            seed=case.seed,
            log_every=10**9,
            eval_every=10**9,
            checkpoint_minutes=2,
            keep_checkpoints=1,
        )
        config = TrainConfig(
            cache=self.cache,
            out=str(out),
            activation=case.activation,
            n_latents=case.n_latents,
            k=case.l0 if case.activation in ("topk", "batch_topk") else None,
            trainer=trainer,
        )
        try:
            summary = train(config)
        except NonFiniteLoss:
            return {"held_out": None, "seconds": None}
        finally:
            if (out / "sae").exists():
                remove_folder(out)
        shown = ", ".join(f"{name} {value:g}" for name, value in asdict(settings).items())
        print(f"{case}: {shown}: FVU {summary['held_out']['fvu']:.4f}", flush=True)
        return {"held_out": summary["held_out"], "seconds": summary["seconds"]}


def _key(case: dict[str, Any], settings: dict[str, Any]) -> str:
    return json.dumps([case, settings], sort_keys=True)


def settings_at(place: Place, tokens: int) -> TrainingDefaults | None:
    """The settings of a place on the lattice; None where there are none."""
    batch, lr, dead = place
    batch_size = 2**batch
    if not (LEAST_BATCH <= batch_size <= tokens and 0 <= dead < len(DEAD_SHARES)):
        return None
    return TrainingDefaults(
        batch_size=batch_size,
        lr=float(f"{LR_UNIT * 2 ** (lr / 2):.3g}"),
        dead_after_tokens=max(1, round(DEAD_SHARES[dead] * tokens)),
    )


def place_of(settings: TrainingDefaults, tokens: int) -> Place:
    """The place nearest to the settings."""
    share = settings.dead_after_tokens / tokens
    nearest = min(range(len(DEAD_SHARES)), key=lambda i: abs(math.log(DEAD_SHARES[i] / share)))
    batch = round(math.log2(settings.batch_size))
    return batch, round(2 * math.log2(settings.lr / LR_UNIT)), nearest


def searched(case: Case, tries: Tries, most: int) -> list[str]:
    """Search one case; a row of the table."""
    rule = derived_defaults(case.tokens, case.n_latents, case.activation)

    def measured(settings: TrainingDefaults | None) -> float:
        held_out = settings and tries.held_out(case, settings)["held_out"]
        return held_out["fvu"] if held_out else math.inf

    def at(place: Place) -> float:
        return measured(settings_at(place, case.tokens))

    of_rule = measured(rule)
    found = descend(at, place_of(rule, case.tokens), STEPS, most=most)
    place = min(found, key=lambda place: found[place])
    best, fvu = settings_at(place, case.tokens), found[place]
    if best is None or of_rule < fvu:
        best, fvu = rule, of_rule
    return [
        case.activation,
        f"{case.n_latents:,}",
        f"{case.tokens:,}",
        *_shown(rule, case.tokens, of_rule),
        *_shown(best, case.tokens, fvu),
        f"{of_rule / fvu:.3f}",
        f"{len([value for value in found.values() if math.isfinite(value)])}",
    ]


def _shown(settings: TrainingDefaults, tokens: int, fvu: float) -> tuple[str, str]:
    share = settings.dead_after_tokens / tokens
    return f"{settings.batch_size:,}, {settings.lr:g}, {share:.2g}", f"{fvu:.4f}"


def note(arguments: argparse.Namespace) -> str:
    cache = ActivationCache(arguments.cache).manifest
    again = f"; {cache.rows:,} rows cached" + (
        ", so that rows of more tokens come again" if max(arguments.tokens) > cache.rows else ""
    )
    return (
        f"Settings: batch size, learning rate, dead window as a share of the tokens. L0 "
        f"{arguments.l0}, one seed; {cache.sites[0]} of {cache.model}, {cache.corpus.dataset}"
        f"{again}. FVU on held-out text. The last columns: the rule's FVU by the best found, and "
        f"places tried (at most {arguments.most}), by coordinate descent from the rule."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache")
    parser.add_argument("runs", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[200_000, 1_000_000, 5_000_000])
    parser.add_argument("--latents", type=int, nargs="+", default=[4608, 12288])
    parser.add_argument("--activations", nargs="+", default=["topk"])
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=14, help="places tried for each case")
    arguments = parser.parse_args()
    cases = [
        Case(tokens, latents, activation, arguments.l0, arguments.seed)
        for tokens, latents, activation in product(
            arguments.tokens, arguments.latents, arguments.activations
        )
    ]
    tries = Tries(arguments.runs, arguments.cache)
    header = ["activation", "latents", "tokens", "rule", "FVU", "best found", "FVU", "ratio"]
    rows: list[list[str]] = []
    for case in sorted(cases, key=lambda case: case.tokens * case.n_latents):
        rows.append(searched(case, tries, arguments.most))
        write_table("search-defaults", [*header, "tried"], rows, [note(arguments)])


if __name__ == "__main__":
    main()
