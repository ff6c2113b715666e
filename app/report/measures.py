"""The measures of an autoencoder in words, for the terminal and for pages."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...sae.common.wording import counted, percent, with_error

READ_FVU = "fraction of the variance missed: 0 is perfect, 1 as bad as the mean row"


def place(result: Mapping[str, Any]) -> str:
    """Where an autoencoder stands, or what a transcoder reads and predicts."""
    site, target_site = result["site"], result.get("target_site")
    return f"at {site}" if target_site is None else f"that reads {site} and predicts {target_site}"


Measure = tuple[str, str, str]
"""Name, value, and how to read it."""


def places(results: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """`place` of each, where they are not all the same; then their FVU is not of the same rows."""
    found = [place(result) for result in results]
    return found if len(set(found)) > 1 else None


def held_out(result: Mapping[str, Any]) -> str:
    """How many rows and documents the measures of `evaluate_all` are of."""
    rows = counted(result["rows"], "held-out row")
    return f"{rows} of {counted(result['documents'], 'document')}"


def fvu(result: Mapping[str, Any]) -> str:
    """The FVU, with its standard error where that was found."""
    return with_error(result["fvu"], result.get("fvu_standard_error"), 4)


def measures(result: Mapping[str, Any]) -> list[Measure]:
    """What `evaluate_all` found about one autoencoder."""
    return [
        *of_rows(result),
        ("overlap", f"{result['decoder_overlap']:.4f}", "mean |cosine| of two decoder rows"),
        (
            "epsilon-LBO",
            f"{result['epsilon_lbo']:.2e}",
            "lower bound on overlap; near 0 says little",
        ),
        *_language_model(result["language_model"], result.get("target_site")),
    ]


def of_rows(result: Mapping[str, Any]) -> list[Measure]:
    """Reconstruction and sparsity, from what `evaluate_all` or the end of a training found."""
    return [
        ("FVU", fvu(result), READ_FVU),
        ("explained", percent(result["explained_variance"]), "the rest of the variance, 1 - FVU"),
        ("L0", f"{result['l0']:.1f}", f"latents active on a row (spread {result['l0_std']:.1f})"),
        ("dead", percent(result["dead_fraction"]), "latents that fired on none of these rows"),
        (
            "dense",
            percent(result["dense_fraction"]),
            "latents that fired on over a tenth of the rows",
        ),
    ]


def _language_model(losses: Mapping[str, Any] | None, target_site: str | None) -> list[Measure]:
    if losses is None:
        return []
    inserted, site = "the autoencoder at its site", "the site"
    if target_site is not None:
        inserted, site = f"the prediction at {target_site}", "that site"
    seen = f"nats for each token, over {counted(losses['tokens'], 'token')}"
    zeroed = f"nats with {site} set to zero; {losses['loss_mean_ablated']:.3f} set to its mean"
    how = "of what zeroing costs; 100% is no harm"
    if losses["loss_recovered"] is None:
        how = "zeroing costs nothing here, so there is nothing to recover"

    def of(name: str) -> str:
        return with_error(losses[name], losses[f"{name}_standard_error"], 3)

    zero_kl = f"{losses['kl_zero_ablated']:.3f} with zeros"
    return [
        ("loss", of("loss"), f"the language model's own, in {seen}"),
        ("loss with SAE", of("loss_with_sae"), f"nats with {inserted}"),
        ("loss ablated", of("loss_zero_ablated"), zeroed),
        ("recovered", recovered(losses), how),
        ("KL", of("kl_with_sae"), f"nats from the model's own predictions; {zero_kl}"),
    ]


def recovered(losses: Mapping[str, Any]) -> str:
    """The fraction of the loss recovered with its standard error, and a dash where there is
    none."""
    found, error = losses["loss_recovered"], losses["loss_recovered_standard_error"]
    if found is None or error is None:
        return percent(found)
    return f"{with_error(100 * found, 100 * error, 1)}%"


def suite_figure(figure: Mapping[str, Any] | None) -> str:
    """A figure of the suite, or its mean over seeds, with how sure it is; empty where there is
    none, a dash where it has no meaning."""
    if figure is None:
        return ""
    value = figure["mean"] if "mean" in figure else figure["value"]
    error = figure["spread"] if "mean" in figure else figure["standard_error"]
    if value is None:
        return percent(None)
    scale, unit = (100, "%") if figure["percent"] else (1, "")

    def shown(number: int | float) -> str:
        return f"{scale * number:.{figure['digits']}f}"

    if error is not None:
        return f"{shown(value)} ± {shown(error)}{unit}"
    if interval := figure.get("interval"):
        return f"{shown(value)} [{shown(interval[0])}, {shown(interval[1])}]{unit}"
    return f"{shown(value)}{unit}"
