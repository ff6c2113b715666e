"""Does a row that chooses its number of latents rebuild better? Top-k, batch-top-k, top-AFA at a
wanted L0, top-AFA with a norm predicted for each row (`norm_predicted.py`) and error matching
(`error_matched.py`) at one L0, on the same rows, several seeds.

    python benchmarks/measure_error_matching.py CACHE RUNS [--l0 64] [--tokens 2000000]
        [--latents 4096] [--most 4] [--seeds 3] [--lr 1e-3] [--clip-norm 0.1] [--contexts 16]
        [--site SITE]

For a CPU. The same command goes on where it was interrupted; each autoencoder is a run in RUNS.
"""

import argparse
import math
from collections.abc import Iterator
from typing import Any

from error_matched import ErrorMatched
from measure_activations import MEASURES, Choice, measured
from norm_predicted import NormPredicted
from results_file import write_table

from sparsteer.sae import register_activation
from sparsteer.training.data.cache.reader import ActivationCache

ERROR_MATCHED = ErrorMatched.config_class.activation
NORM_PREDICTED = NormPredicted.config_class.activation


def choices(arguments: argparse.Namespace) -> Iterator[Choice]:
    for l0 in arguments.l0:
        yield Choice("topk", l0, {"activation": "topk", "k": l0})
        yield Choice("batch_topk", l0, {"activation": "batch_topk", "k": l0})
        yield Choice("top_afa_l0", l0, {"activation": "top_afa"}, {"target_l0": l0})
        most = f"most={min(arguments.most * l0, arguments.latents)}"
        options: dict[str, Any] = {"activation": NORM_PREDICTED, "setting": (most, f"l0={l0}")}
        yield Choice(NORM_PREDICTED, l0, options, {"target_l0": l0})
        options = {"activation": ERROR_MATCHED, "setting": (most,)}
        yield Choice(ERROR_MATCHED, l0, options, {"target_l0": l0})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache")
    parser.add_argument("runs")
    parser.add_argument("--l0", type=int, nargs="+", default=[64])
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--most", type=int, default=4, help="times L0 that a row keeps at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--clip-norm", type=float, default=0.1, help="0 for no limit")
    parser.add_argument("--contexts", type=int, default=16)
    parser.add_argument("--site", help="of a cache with several")
    arguments = parser.parse_args()
    register_activation(ErrorMatched)
    register_activation(NormPredicted)
    points = measured(list(choices(arguments)), arguments)
    lines = [
        [
            choice.kind,
            f"{choice.setting:g}",
            f"{point.l0[0]:.1f} ± {point.l0[1]:.1f}",
            *(
                f"{mean:.4f} ± {spread:.4f}"
                for mean, spread in (getattr(point, m) for m in MEASURES)
            ),
        ]
        for choice, point in points.items()
    ]
    cache = ActivationCache(arguments.cache).manifest
    site = arguments.site or cache.sites[0]
    note = (
        f"{arguments.latents} latents, {arguments.tokens:,} tokens, {arguments.seeds} seeds of the "
        f"initial directions (mean and standard deviation), lr {arguments.lr:g}, gradients clipped "
        f"at {arguments.clip_norm or math.inf:g}; {site} of {cache.model}, "
        f"{cache.corpus.dataset}, {cache.rows:,} rows cached. Held-out text; loss recovered over "
        f"{arguments.contexts} contexts. A row of {ERROR_MATCHED} or {NORM_PREDICTED} keeps at "
        f"most {arguments.most} times as many latents as are wanted."
    )
    write_table(
        "error-matching", ["kind", "wanted L0", "L0", "FVU", "loss recovered"], lines, [note]
    )


if __name__ == "__main__":
    main()
