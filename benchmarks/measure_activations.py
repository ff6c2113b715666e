"""Which activation rebuilds best at which L0? Top-k, batch-top-k, Matryoshka and top-AFA on the
same rows, several seeds, FVU and loss recovered on held-out text: one table, one plot.

    python benchmarks/measure_activations.py CACHE RUNS [--tokens 1000000] [--latents 4096]
        [--l0 32 64 128 256] [--scales 0.6 0.7 0.8 0.9 1.0]
        [--lambdas 0.01 0.003] [--seeds 3] [--lr 1e-3] [--clip-norm 0.1] [--contexts 16]
        [--site SITE]

The L0 of top-AFA is its own choice: it is trained at several target scales with the published
weight of its norm loss, at scale 1 with several weights (lambda), and with a scale that is led to
each L0 of the others. Its figures stand beside those of top-k at the same L0, between whose points
the line is drawn (log L0). The same command goes on where it was interrupted; each autoencoder is a
run folder in RUNS.
"""

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from results_file import RESULTS, write_table

from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.evaluation.config import EvalSettings
from sparsteer.training.evaluation.evaluation import evaluate_all
from sparsteer.training.train import train_grid
from sparsteer.training.trainer_config import TrainerConfig

NESTED = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
MEASURES = ("fvu", "loss_recovered")


@dataclass(frozen=True, eq=False)
class Choice:
    """A kind of autoencoder at one setting."""

    kind: str
    setting: float
    options: dict[str, Any]
    trainer: dict[str, Any] = field(default_factory=dict[str, Any])


class Point(NamedTuple):
    """What the seeds of a choice reached: mean and standard deviation of each measure."""

    l0: tuple[float, float]
    fvu: tuple[float, float]
    loss_recovered: tuple[float, float]


def choices(
    l0s: Sequence[int], scales: Sequence[float], lambdas: Sequence[float]
) -> Iterator[Choice]:
    for k in l0s:
        yield Choice("topk", k, {"activation": "topk", "k": k})
        yield Choice("batch_topk", k, {"activation": "batch_topk", "k": k})
        yield Choice("matryoshka", k, {"activation": "topk", "k": k, "prefixes": NESTED})
        yield Choice("top_afa_l0", k, {"activation": "top_afa"}, {"target_l0": k})
    for scale in scales:
        yield Choice("top_afa", scale, {"activation": "top_afa", "target_scale": scale})
    for weight in lambdas:
        yield Choice(
            "top_afa_lambda", weight, {"activation": "top_afa"}, {"afa_coefficient": weight}
        )


def config_of(choice: Choice, seed: int, arguments: argparse.Namespace) -> TrainConfig:
    trainer = TrainerConfig(
        tokens=arguments.tokens,
        batch_size=1024,
        lr=arguments.lr,
        clip_norm=arguments.clip_norm,
        dead_after_tokens=max(1, arguments.tokens // 4),
        seed=seed,
        eval_every=10**9,
        checkpoint_every=200,
        keep_checkpoints=1,
        **choice.trainer,
    )
    return run_of(choice, trainer, arguments)


def run_of(choice: Choice, trainer: TrainerConfig, arguments: argparse.Namespace) -> TrainConfig:
    """The run of a choice, in RUNS."""
    return TrainConfig(
        cache=arguments.cache,
        site=arguments.site,
        out=str(Path(arguments.runs) / f"{choice.kind}-{choice.setting:g}-seed{trainer.seed}"),
        n_latents=arguments.latents,
        trainer=trainer,
        **choice.options,
    )


def measured(everything: Sequence[Choice], arguments: argparse.Namespace) -> dict[Choice, Point]:
    """Train each choice with every seed on the same rows, measure it on held-out text."""
    found: dict[Choice, list[dict[str, Any]]] = {}
    for seed in range(arguments.seeds):
        configs = [config_of(choice, seed, arguments) for choice in everything]
        train_grid(configs, say=print)
        settings = EvalSettings(
            cache=arguments.cache, site=arguments.site, contexts=arguments.contexts
        )
        results = evaluate_all([config.out for config in configs], settings, say=print)
        for choice, result in zip(everything, results, strict=True):
            found.setdefault(choice, []).append(result)

    def over_seeds(results: list[dict[str, Any]], name: str) -> tuple[float, float]:
        values = [result[name] for result in results]
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    points: dict[Choice, Point] = {}
    for choice in everything:
        results = found[choice]
        points[choice] = Point(*(over_seeds(results, name) for name in ("l0", *MEASURES)))
    return points


def at_l0(l0: float, line: Sequence[Point], measure: str) -> float | None:
    """The measure of a line of points at an L0 between two of them; None outside."""
    ordered = sorted(line, key=lambda point: point.l0[0])
    for left, right in pairwise(ordered):
        a, b = math.log(left.l0[0]), math.log(right.l0[0])
        if a <= math.log(l0) <= b and b > a:
            share = (math.log(l0) - a) / (b - a)
            low, high = getattr(left, measure)[0], getattr(right, measure)[0]
            return low + share * (high - low)
    return None


def draw(points: dict[Choice, Point], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes: Any = figure.subplots(1, 2)  # pyright: ignore[reportUnknownMemberType] - matplotlib's types are partial
    ticks = sorted({int(2 ** round(math.log2(point.l0[0]))) for point in points.values()})
    labels = ("FVU (fraction of variance missed)", "loss recovered (1: the untouched model)")
    for axis, measure, label in zip(axes, MEASURES, labels, strict=True):
        for kind in dict.fromkeys(choice.kind for choice in points):
            line = sorted(p for choice, p in points.items() if choice.kind == kind)
            axis.errorbar(
                [point.l0[0] for point in line],
                [getattr(point, measure)[0] for point in line],
                xerr=[point.l0[1] for point in line],
                yerr=[getattr(point, measure)[1] for point in line],
                marker="o",
                markersize=4,
                capsize=2,
                label=kind,
            )
        axis.set_xscale("log")
        # Doublings are ticks enough; a logarithmic axis would write 3 x 10^1.
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel("L0 (latents active per row)")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path)  # pyright: ignore[reportUnknownMemberType] - matplotlib's types are partial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache")
    parser.add_argument("runs")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--l0", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--scales", type=float, nargs="+", default=[0.6, 0.7, 0.8, 0.9, 1.0])
    parser.add_argument("--lambdas", type=float, nargs="*", default=[0.01, 0.003])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--clip-norm", type=float, default=0.1, help="0 for no limit")
    parser.add_argument("--contexts", type=int, default=16)
    parser.add_argument("--site", help="of a cache with several")
    arguments = parser.parse_args()
    everything = list(choices(arguments.l0, arguments.scales, arguments.lambdas))
    points = measured(everything, arguments)
    topk = [point for choice, point in points.items() if choice.kind == "topk"]
    lines: list[list[str]] = []
    for choice, point in points.items():
        shown = [
            f"{mean:.4f} ± {spread:.4f}" for mean, spread in (getattr(point, m) for m in MEASURES)
        ]
        same = [at_l0(point.l0[0], topk, measure) for measure in MEASURES]
        lines.append(
            [
                choice.kind,
                f"{choice.setting:g}",
                f"{point.l0[0]:.1f} ± {point.l0[1]:.1f}",
                *shown,
                *("" if value is None else f"{value:.4f}" for value in same),
            ]
        )
    header = [
        "kind",
        "k, L0, scale or lambda",
        "L0",
        "FVU",
        "loss recovered",
        "FVU of topk there",
        "recovered",
    ]
    cache = ActivationCache(arguments.cache).manifest
    site = arguments.site or cache.sites[0]
    notes = [
        f"{arguments.latents} latents, {arguments.tokens:,} tokens, {arguments.seeds} seeds of the "
        f"initial directions (mean and standard deviation), lr {arguments.lr:g} and gradients "
        f"clipped at {arguments.clip_norm or math.inf:g} for all; top_afa: "
        "target scales, lambda 1/32; top_afa_l0: the scale led to that L0; "
        f"top_afa_lambda: lambda, scale 1; {site} of {cache.model}, "
        f"{cache.corpus.dataset}, {cache.rows:,} rows cached. Held-out text; loss recovered over "
        f"{arguments.contexts} contexts. "
        f"Matryoshka: top-k with prefixes of {', '.join(f'{share:g}' for share in NESTED)} of the "
        "latents. The last two columns: top-k at the same L0, between its points.",
    ]
    path = write_table("activations", header, lines, notes)
    draw(points, path.with_suffix(".svg"))
    print(f"drawn: {path.with_suffix('.svg').relative_to(RESULTS.parent)}")


if __name__ == "__main__":
    main()
