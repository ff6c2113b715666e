"""The verb `eval`."""

from typing import Any

from ..training.config import EvalConfig
from .console import READ_FVU, Report, Terminal, count, share, table

_BARS = " ▁▂▃▄▅▆▇█"


def run(config: EvalConfig, terminal: Terminal) -> Report:
    """Measure a sparse autoencoder on the held-out part of an activation cache.

    SAE is the folder of an autoencoder, or of the run that trained it.
    """
    from ..training.evaluation import evaluate

    result = evaluate(config, say=terminal.say)
    rows = [
        ("FVU", f"{result['fvu']:.4f}", READ_FVU),
        ("explained", share(result["explained_variance"]), "the rest of the variance, 1 - FVU"),
        ("L0", f"{result['l0']:.1f}", f"latents active on a row (spread {result['l0_std']:.1f})"),
        ("dead", share(result["dead_share"]), "latents that fired on none of these rows"),
        ("dense", share(result["dense_share"]), "latents that fired on over a tenth of the rows"),
        ("epsilon-LBO", f"{result['epsilon_lbo']:.2e}", "least overlap of latents: low is good"),
        *_language_model_rows(result["language_model"]),
    ]
    shown = (
        f"{config.sae} at {result['site']}, on {count(result['rows'])} held-out rows:",
        table(*rows),
        *_density_lines(result["density_histogram"]),
    )
    return Report(values=result, shown=shown)


def _language_model_rows(losses: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    if losses is None:
        return []
    seen = f"nats for each token, over {count(losses['tokens'])} tokens"
    zeroed = f"nats with the site set to zero; {losses['loss_mean_ablated']:.3f} set to its mean"
    return [
        ("loss", f"{losses['loss']:.3f}", f"the language model's own, in {seen}"),
        ("loss spliced", f"{losses['loss_spliced']:.3f}", "nats with the autoencoder at its site"),
        ("loss ablated", f"{losses['loss_zero_ablated']:.3f}", zeroed),
        ("recovered", share(losses["loss_recovered"]), "of what zeroing costs; 100% is no harm"),
    ]


def _density_lines(histogram: dict[str, Any]) -> tuple[str, str]:
    edges, latents = histogram["log10_edges"], histogram["latents"]
    most = max(1, *latents)
    bars = "".join(_BARS[-(-number * (len(_BARS) - 1) // most)] for number in latents)
    return (
        f"density: |{bars}|",
        f"latents by the share of rows they fire on, from 1e{edges[0]:.0f} to 1 on a log scale "
        f"(highest bar {count(most)}); {count(histogram['dead'])} never fired",
    )
