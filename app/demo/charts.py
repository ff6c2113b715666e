"""The sections with plots: training, firing rates, the language model's loss; and epsilon-LBO."""

from ...sae.common.wording import percent
from ..report import plots
from ..report.inline import PAGE, for_page
from ..report.markup import Html, join, tag
from ..report.page import figure
from .config import DEMO_ACTIVATIONS
from .report_context import NAMES, STYLES, Bar, ReportContext, bars_for_page

_LOSS = ("Next-token loss in nats per token", "next-token loss (nats per token)")


def training(context: ReportContext) -> Html:
    """The curves of training."""
    curves = [(STYLES[name], context.training[name]["curve"]) for name in DEMO_ACTIVATIONS]
    ends = [context.measures[name] for name in DEMO_ACTIVATIONS]
    width = context.cache["d_model"]
    shown = (
        figure(
            for_page(plots.fvu_curves(curves, PAGE)),
            "FVU while training. Lines: the batch before its update; dots: held-out rows. Dots far "
            "above the line would mean overfitting.",
        ),
        figure(
            for_page(plots.l0_curves(curves, width, PAGE)),
            "Active latents per row while training. Top-k's is fixed; top-AFA's is its own choice. "
            "Dotted: the width of the activations.",
        ),
        figure(
            for_page(plots.fvu_against_l0(curves, ends, width, PAGE)),
            "The two numbers that belong together. Further down and left is better; a point is "
            "only comparable with one straight above or below it.",
        ),
    )
    return tag("section", tag("h2", "While training"), tag("div", join(*shown), class_="figures"))


def density(context: ReportContext) -> Html:
    """Histograms of firing rates."""
    shown = [
        figure(
            for_page(
                plots.density(STYLES[name], measured["density_histogram"], measured["rows"], PAGE)
            ),
            f"{NAMES[name]}: {measured['density_histogram']['dead']:,} of "
            f"{measured['n_latents']:,} latents never fired; {percent(measured['dense_fraction'])} "
            "are in the gray band, firing on over a tenth of the rows.",
        )
        for name, measured in context.measures.items()
    ]
    text = (
        "Each latent is counted at how often it fires. A healthy sparse dictionary is a hump well "
        "left of the gray band: latents that fire rarely can be about something. The bars next to "
        "“never” are latents that fired once or a few times in all."
    )
    return tag(
        "section",
        tag("h2", "How often latents fire"),
        tag("p", text),
        tag("div", join(*shown), class_="figures"),
    )


def language_model(context: ReportContext) -> Html:
    """The model's loss with its activation replaced."""
    losses = {name: context.measures[name]["language_model"] for name in DEMO_ACTIVATIONS}
    one = losses["topk"]
    bars: list[Bar] = [
        ("untouched", one["loss"], None),
        *((NAMES[name], losses[name]["loss_with_sae"], name) for name in DEMO_ACTIVATIONS),
        ("mean row", one["loss_mean_ablated"], None),
        ("zeros", one["loss_zero_ablated"], None),
    ]
    against_mean = " and ".join(
        f"{percent(losses[name]['loss_recovered_from_mean'])} for {NAMES[name]}"
        for name in DEMO_ACTIVATIONS
    )
    text = (
        "The activation is replaced at every token (but a context's first two and separators), and "
        f"the model goes on from there: {one['contexts']:,} held-out contexts, {one['tokens']:,} "
        "predicted tokens. A nat more of loss means that the model gives the right token e (2.7) "
        "times less probability. Against the mean row in place of zeros, a fairer yardstick, the "
        f"loss recovered is {against_mean}."
    )
    caption = (
        "Lower is better. The bars of a good autoencoder end near the untouched model's; “mean "
        "row” and “zeros” say how much hangs on this site at all."
    )
    return tag(
        "section",
        tag("h2", "What the language model loses"),
        tag("p", text),
        tag("div", figure(bars_for_page(*_LOSS, bars, 2), caption), class_="figures"),
    )


def epsilon(context: ReportContext) -> Html:
    """What epsilon-LBO is."""
    return tag(
        "section",
        tag("h2", "ε-LBO, in words"),
        tag(
            "p",
            "If all latents were at right angles and the rewriting exact, an activation z and its "
            "code f would have the same length. How far the lengths differ bounds from below how "
            "much some two latents overlap (the cosine between them):",
        ),
        tag("p", "ε-LBO = | ‖z‖² \N{MINUS SIGN} ‖f‖² | / (c · ‖f‖²)", class_="formula"),
        tag(
            "p",
            "The published constant c counts all latents but one "
            f"({context.measures['topk']['n_latents'] - 1:,}); only the active ones can overlap on "
            "a row, so c = L0 gives a bound that is tighter and as true. Both are medians over the "
            "held-out rows, b_dec counting as one more latent. Three cautions. Top-AFA picks its "
            "latents so that the lengths agree, so its bound is near 0 by construction. A bound "
            "near 0 does not say that latents are at right angles. And part of the difference is "
            "reconstruction error, not overlap: read it beside FVU. (arXiv 2503.24277)",
        ),
    )
