"""What do whitening, penalties and a LISTA step change? Each option of training beside the plain
training of the same activation, on the same rows, at the same L0, several seeds: one table.

    python benchmarks/measure_recipes.py CACHE RUNS [--tokens 2000000] [--latents 4096] [--l0 64]
        [--seeds 3] [--lr 1e-3] [--batch-size 1024] [--only plain whitening lista]
        [--whitening 0.5 1] [--orthogonality 0.03 0.3] [--frequency 0.001 0.01] [--lista 0.3]
        [--contexts 16] [--results FOLDER]

Every autoencoder is a run folder in RUNS, and what was measured of it lies beside them, by the
number of contexts: the same command goes on where it was interrupted. Differences are of runs with
the same seed.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results_file import RESULTS, write_table

from sparsteer.sae import SparseAutoencoder
from sparsteer.sae.common.files import read_json, write_json
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.evaluation.config import EvalSettings
from sparsteer.training.evaluation.evaluation import evaluate_all
from sparsteer.training.evaluation.latents.matching import nearest_rows
from sparsteer.training.train import train_grid
from sparsteer.training.trainer_config import TrainerConfig

FAMILIES = ("plain", "whitening", "orthogonality", "frequency", "lista", "quadratic")
MEASURED_AT_ONCE = 4
"""Autoencoders that share a pass of the language model; an interruption loses no more."""
HEADER = [
    *("recipe", "L0", "FVU", "FVU less plain's", "loss recovered", "recovered less plain's"),
    *("dead", "dense", "mean absolute cosine", "nearest cosine", "seconds of training"),
]
Figures = dict[str, Any]
"""Of each of `FIGURES` a number; what was recovered may be None."""
FIGURES = ("l0", "fvu", "recovered", "dead", "dense", "overlap", "nearest", "seconds")


@dataclass(frozen=True, eq=False)
class Recipe:
    """One way of training: which family it belongs to, and what it is compared with."""

    name: str
    family: str
    activation: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    trainer: dict[str, Any] = field(default_factory=dict[str, Any])


def recipes(arguments: argparse.Namespace) -> Iterator[Recipe]:
    """Those asked for, the plain ones always, as others are compared with them."""
    for activation in ("topk", "jumprelu"):
        yield Recipe(f"{activation}", "plain", activation)
    for strength in arguments.whitening:
        for loss in ("original", "whitened"):
            yield Recipe(
                f"topk-whitening{strength:g}-{loss}",
                "whitening",
                "topk",
                trainer={"whitening": strength, "whitening_loss": loss},
            )
    for family in ("orthogonality", "frequency"):
        for activation in ("topk",) if family == "orthogonality" else ("topk", "jumprelu"):
            for coefficient in getattr(arguments, family):
                term = f"{family}={coefficient:g}"
                yield Recipe(f"{activation}-{term}", family, activation, {}, {"loss_term": (term,)})
    for step in arguments.lista:
        yield Recipe(f"topk-lista{step:g}", "lista", "topk", {"lista_step": step})
    yield Recipe("jumprelu-quadratic", "quadratic", "jumprelu", {}, {"sparsity": "quadratic"})


def chosen(arguments: argparse.Namespace) -> list[Recipe]:
    kept = [one for one in recipes(arguments) if one.family in ("plain", *arguments.only)]
    used = {one.activation for one in kept if one.family != "plain"} or {"topk", "jumprelu"}
    return [one for one in kept if one.activation in used]


def config_of(recipe: Recipe, seed: int, arguments: argparse.Namespace) -> TrainConfig:
    topk = recipe.activation == "topk"
    trainer = TrainerConfig(
        tokens=arguments.tokens,
        batch_size=arguments.batch_size,
        lr=arguments.lr,
        dead_after_tokens=max(1, arguments.tokens // 4),
        target_l0=None if topk else arguments.l0,
        seed=seed,
        eval_every=10**9,
        checkpoint_every=200,
        keep_checkpoints=1,
        **recipe.trainer,
    )
    return TrainConfig(
        cache=arguments.cache,
        out=str(Path(arguments.runs) / f"{recipe.name}-seed{seed}"),
        activation=recipe.activation,
        n_latents=arguments.latents,
        k=arguments.l0 if topk else None,
        trainer=trainer,
        **recipe.options,
    )


def nearest_cosine(sae: SparseAutoencoder) -> float:
    """Mean over latents of the largest cosine of its decoder row with another's."""
    W_dec = sae.W_dec.detach()
    cosines_FK, _ = nearest_rows(W_dec, W_dec, most=2)  # the first is its own
    return float(cosines_FK[:, 1].double().mean())


def figures_of(result: dict[str, Any], out: str, seconds: float) -> Figures:
    """`FIGURES`; what was recovered is None without a language model."""
    model: dict[str, Any] = result["language_model"] or {}
    return {
        "l0": result["l0"],
        "fvu": result["fvu"],
        "recovered": model.get("loss_recovered"),
        "dead": result["dead_fraction"],
        "dense": result["dense_fraction"],
        "overlap": result["decoder_overlap"],
        "nearest": nearest_cosine(SparseAutoencoder.load(out)),
        "seconds": seconds,
    }


def measured(
    everything: Sequence[Recipe], arguments: argparse.Namespace
) -> dict[str, list[Figures]]:
    """Of each recipe its figures, seed by seed, measured now or before."""
    found: dict[str, list[Figures]] = {one.name: [] for one in everything}
    folder = Path(arguments.runs) / f"measured-{arguments.contexts}-contexts"
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        files = {one.name: folder / f"{one.name}-seed{seed}.json" for one in everything}
        configs = {one.name: config_of(one, seed, arguments) for one in everything}
        summaries = train_grid([*configs.values()], say=print)  # refuses runs of other settings
        seconds = {
            name: summary.get("seconds", float("nan"))
            for name, summary in zip(configs, summaries, strict=True)
        }
        if failed := [summary for summary in summaries if "failed" in summary]:
            raise SystemExit(f"{failed[0]['run']}: {failed[0]['failed']}")
        missing = [name for name, file in files.items() if not file.exists()]
        settings = EvalSettings(cache=arguments.cache, contexts=arguments.contexts)
        for start in range(0, len(missing), MEASURED_AT_ONCE):
            names = missing[start : start + MEASURED_AT_ONCE]
            outs = [configs[name].out for name in names]
            for name, out, result in zip(
                names, outs, evaluate_all(outs, settings, say=print), strict=True
            ):
                write_json(files[name], figures_of(result, out, seconds[name]))
        for name, file in files.items():
            found[name].append(read_json(file, "measured figures"))
    return found


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def row_of(recipe: Recipe, own: Sequence[Figures], plain: Sequence[Figures]) -> list[str]:
    def shown(name: str, form: str = ".4f") -> str:
        if any(one[name] is None for one in own):
            return ""
        mean, spread = over_seeds([one[name] for one in own])
        return f"{mean:{form}} ± {spread:{form}}"

    def difference(name: str) -> str:
        if recipe.family == "plain" or any(one[name] is None for one in (*own, *plain)):
            return ""
        pairs = zip(own, plain, strict=True)
        mean, spread = over_seeds([one[name] - other[name] for one, other in pairs])
        return f"{mean:+.4f} ± {spread:.4f}"

    return [
        recipe.name,
        shown("l0", ".1f"),
        *(shown("fvu"), difference("fvu"), shown("recovered"), difference("recovered")),
        *(shown("dead", ".2%"), shown("dense", ".2%"), shown("overlap"), shown("nearest", ".3f")),
        shown("seconds", ".0f"),
    ]


def rows_of(everything: Sequence[Recipe], found: dict[str, list[Figures]]) -> list[list[str]]:
    return [row_of(one, found[one.name], found[one.activation]) for one in everything]


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache")
    parser.add_argument("runs")
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--l0", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--whitening", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--orthogonality", type=float, nargs="+", default=[0.03, 0.3])
    parser.add_argument("--frequency", type=float, nargs="+", default=[0.001, 0.01])
    parser.add_argument("--lista", type=float, nargs="+", default=[0.3])
    parser.add_argument("--contexts", type=int, default=16)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(words)


def main() -> None:
    arguments = parsed()
    everything = chosen(arguments)
    found = measured(everything, arguments)
    cache = ActivationCache(arguments.cache).manifest
    notes = [
        f"{arguments.latents} latents, {arguments.tokens:,} tokens, {arguments.seeds} seeds of the "
        "initial directions (mean and standard deviation), the rows in the same order for all; "
        f"batches of {arguments.batch_size}, lr {arguments.lr:g}; topk keeps {arguments.l0} "
        f"latents, jumprelu is led to as many. {cache.sites[0]} of {cache.model}, "
        f"{cache.corpus.dataset}, {cache.rows:,} rows cached. Held-out text; loss recovered over "
        f"{arguments.contexts} contexts. Less plain's: the same seed's difference from plain "
        "training of the activation. Dense: active on over a tenth of the rows. Mean absolute "
        "cosine: of all pairs of decoder rows; nearest: of each row the largest with "
        "another. Seconds are of trainings that take turns, and compare only with one another.",
    ]
    write_table("recipes", HEADER, rows_of(everything, found), notes, arguments.results)


if __name__ == "__main__":
    main()
