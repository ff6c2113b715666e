"""The evaluation suite over kinds of autoencoders at several L0 and seeds, PCA, random directions
and the raw activation, and a dictionary that ships.

    python benchmarks/measure_suite.py CACHE RUNS [--l0 32 64 128] [--tokens 2000000]
        [--latents 4096] [--seeds 3] [--contexts 16] [--rows 16384] [--site SITE]
        [--beside smollm2-135m-default] [--parts held_out probing ...]

Batch size, learning rate and dead window are the defaults (docs/training.md). The same command goes
on where it was interrupted; each autoencoder is a run in RUNS, and the suite's page lies in
RUNS/suite.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from measure_activations import NESTED, Choice, run_of
from results_file import write_texts

from sparsteer.app.report.markdown import suite_tables
from sparsteer.app.report.suite_page import write_suite_page
from sparsteer.steering.suite.config import SuiteSettings
from sparsteer.steering.suite.runner import run_suite
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.evaluation.config import EvalSettings
from sparsteer.training.train import train
from sparsteer.training.trainer_config import TrainerConfig

PARTS = ("held_out", "classes", "probing", "meaning", "stability")


def choices(l0: int) -> Iterator[Choice]:
    yield Choice("topk", l0, {"activation": "topk", "k": l0})
    yield Choice("batch_topk", l0, {"activation": "batch_topk", "k": l0})
    yield Choice("jumprelu", l0, {"activation": "jumprelu"}, {"target_l0": l0})
    yield Choice("matryoshka", l0, {"activation": "batch_topk", "k": l0, "prefixes": NESTED})
    yield Choice("top_afa", l0, {"activation": "top_afa"}, {"target_l0": l0})


def config_of(choice: Choice, seed: int, arguments: argparse.Namespace) -> TrainConfig:
    trainer = TrainerConfig(
        tokens=arguments.tokens,
        seed=seed,
        log_every=200,
        eval_every=10**9,
        checkpoint_minutes=3,
        keep_checkpoints=1,
        **choice.trainer,
    )
    return run_of(choice, trainer, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache")
    parser.add_argument("runs")
    parser.add_argument("--l0", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--contexts", type=int, default=16)
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--site", help="of a cache with several")
    parser.add_argument("--beside", nargs="*", default=[], help="further autoencoders")
    parser.add_argument("--parts", nargs="+", default=list(PARTS))
    arguments = parser.parse_args()
    trained: list[str] = []
    for seed in range(arguments.seeds):
        for l0 in arguments.l0:
            for choice in choices(l0):
                config = config_of(choice, seed, arguments)
                train(config, say=print)
                trained.append(config.out)
    suite = SuiteSettings(
        parts=tuple(arguments.parts),
        baseline_l0=tuple(arguments.l0),
        suite_out=str(Path(arguments.runs) / "suite"),
    )
    settings = EvalSettings(
        cache=arguments.cache,
        site=arguments.site,
        rows=arguments.rows,
        contexts=arguments.contexts,
    )
    result = run_suite([*arguments.beside, *trained], settings, suite, say=print)
    write_suite_page(result, with_plots=True)
    print(write_texts("suite", [note(arguments), *suite_tables(result)]))


def note(arguments: argparse.Namespace) -> str:
    """What was trained and measured."""
    opened = ActivationCache(arguments.cache)
    cache, site = opened.manifest, opened.site_name(arguments.site)
    return (
        f"{arguments.latents:,} latents, {arguments.tokens:,} tokens, {arguments.seeds} seeds of "
        f"the initial directions; {site} of {cache.model}, {cache.corpus.dataset}, "
        f"{cache.rows:,} rows cached. {arguments.rows:,} held-out rows, {arguments.contexts} "
        "contexts. A name with * stands for several seeds: mean ± standard deviation. "
        "Matryoshka: batch_topk with prefixes of "
        f"{', '.join(f'{share:g}' for share in NESTED)} of the latents. Of top_afa the target "
        "scale is led to the L0."
    )


if __name__ == "__main__":
    main()
