"""The sections that say what was done, how far to trust it, what came out, and how to repeat it."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime

from ...sae.common.shipped import is_shipped
from ...sae.common.wording import percent
from ...training.config import ActivationName
from ...training.open_settings import begun_with, resolved_defaults
from ...training.run import RunFolder
from ..report.markup import Child, Html, join, table, tag
from .config import DEMO_ACTIVATIONS
from .report_context import NAMES, ReportContext

_SUITE_TOKENS = 500_000_000
"""Tokens that each dictionary of the SAEBench suite was trained on (arXiv 2503.09532)."""


def title(context: ReportContext) -> str:
    """The title of the report."""
    return f"Two sparse autoencoders on {context.config.model}"


def introduction(context: ReportContext) -> Html:
    """What was done, for someone who sees such a report for the first time."""
    cache, trained = context.cache, context.training["topk"]
    what = (
        f"One command ran the language model over {cache['rows']:,} tokens of the text "
        f"“{context.config.dataset}”, kept the activation at ",
        tag("code", cache["site"]),
        f" for each, a vector of {cache['d_model']} numbers, and trained two sparse autoencoders "
        "on them. An autoencoder learns a dictionary of directions, its latents (here "
        f"{trained['n_latents']:,}), and rewrites every activation as a sum of a few of them. "
        "A row, below, is the activation at one token.",
    )
    kinds = (
        tag("strong", "Top-k"),
        f" always takes the {trained['k']} strongest latents of a row. ",
        tag("strong", "Top-AFA"),
        " lets the row choose: it takes the strongest latents until their joint norm is nearest "
        "the norm of the row, so there is no k to set.",
    )
    further = (
        f"Then {context.steered} was used{_why_used(context)}: features that are more active in "
        "toxic prompts were found, the model was steered with them, and instruction data chosen by "
        "its codes."
    )
    paragraphs = (tag("p", join(*words)) for words in (what, kinds, further))
    return tag("header", tag("h1", title(context)), *paragraphs)


def _why_used(context: ReportContext) -> str:
    """Of one that comes with sparsteer, why it is taken."""
    shipped = is_shipped(context.config.steered)
    return ", which comes with sparsteer and was trained on far more text" if shipped else ""


def smallness(context: ReportContext) -> Html:
    """How far these numbers may be trusted."""
    cache, trained = context.cache, context.training["topk"]
    n_train = cache["rows"] - cache["held_out_rows"]
    points = (
        f"Each autoencoder was trained on {trained['tokens']:,} rows: {n_train:,} different ones, "
        f"seen {trained['tokens'] / n_train:.1f} times. The dictionaries of a common benchmark "
        f"suite (SAEBench) saw {_SUITE_TOKENS / 1e6:.0f} million, "
        f"{_SUITE_TOKENS / trained['tokens']:,.0f} times as many. Expect common features of this "
        "one text, not fine or rare ones, and better numbers from a longer run.",
        f"The autoencoders are measured on {cache['held_out_rows']:,} rows of "
        f"{cache['held_out_documents']:,} documents that training never saw, and once: one random "
        "seed, so no error bars. Small differences mean nothing.",
        "The settings were chosen for a run of minutes by trials judged on these same held-out "
        "rows, which favors the figures a little. It shows that the chain works and how its "
        "numbers read; it does not rank the two methods.",
        *(notice + "." for notice in cache["notices"]),
    )
    return tag(
        "section",
        tag("h2", "How small this run is"),
        tag("ul", [tag("li", point) for point in points]),
        class_="notice",
    )


def numbers(context: ReportContext) -> Html:
    """Every measure of both autoencoders, with one line on how to read it."""
    measures, cache = context.measures, context.cache
    losses = {name: measures[name]["language_model"] for name in DEMO_ACTIVATIONS}

    def row(name: str, shown: Callable[[str], str], how: str) -> list[Html]:
        values = [join(shown(activation)) for activation in DEMO_ACTIVATIONS]
        return [join(name), *values, join(how)]

    rows = [
        row(
            "FVU",
            lambda a: f"{measures[a]['fvu']:.4f}",
            "Share of the activations' variance that is missed: 0 is perfect, 1 no better than "
            "always giving the mean. Only comparable at equal L0.",
        ),
        row(
            "L0",
            lambda a: f"{measures[a]['l0']:.1f} ± {measures[a]['l0_std']:.1f}",
            "Latents active on a row: mean and standard deviation over rows. Lower is sparser; "
            f"from {cache['d_model']}, the width, on, any dictionary can be nearly lossless.",
        ),
        row(
            "Dead latents",
            lambda a: percent(measures[a]["dead_fraction"]),
            f"Latents silent on all {measures['topk']['rows']:,} held-out rows. On so few rows "
            "some of them are only rare.",
        ),
        row(
            "Dense latents",
            lambda a: percent(measures[a]["dense_fraction"]),
            "Latents active on more than a tenth of the rows. These seldom stand for one thing.",
        ),
        row(
            "Loss recovered",
            lambda a: percent(losses[a]["loss_recovered"]),
            "With the reconstruction in place of the activation, how much of the harm of erasing "
            "it is avoided: 100% is the untouched model, 0% zeros. Saturates near 100%.",
        ),
        row(
            "Loss added (nats)",
            lambda a: f"{losses[a]['loss_with_sae'] - losses[a]['loss']:.3f}",
            "How much worse the model predicts the next token with the reconstruction in place: "
            "the same measurement, on a scale that does not saturate.",
        ),
        row(
            "ε-LBO (all latents)",
            lambda a: _small(measures[a]["epsilon_lbo"]),
            "Lower bound on the overlap of two latents, as published; explained below. For top-AFA "
            "near 0 by construction.",
        ),
        row(
            "ε-LBO (active latents)",
            lambda a: _small(measures[a]["epsilon_lbo_active"]),
            "The same bound with the tighter constant.",
        ),
        row(
            "Training speed (rows/s)",
            lambda a: f"{context.training[a]['tokens_per_second']:,.0f}",
            "On this machine, evaluation and checkpoints left out. More active latents cost more.",
        ),
    ]
    head = ["On held-out text", *(NAMES[name] for name in DEMO_ACTIVATIONS), "How to read it"]
    return tag(
        "section", tag("h2", "The numbers"), table(head, rows, class_="numbers"), id="numbers"
    )


def comparison(context: ReportContext) -> Html:
    """What may be concluded from the two side by side."""
    topk, afa = (context.measures[name] for name in DEMO_ACTIVATIONS)
    width = context.cache["d_model"]
    more = afa["l0"] / topk["l0"]
    afa_weight = context.config.train_config("top_afa").trainer.afa_coefficient
    fvus = f"{topk['fvu']:.3f} for top-k, {afa['fvu']:.3f} for top-AFA"
    points = [
        f"Top-AFA uses {more:.1f} times as many latents per row as top-k ({afa['l0']:.0f} and "
        f"{topk['l0']:.0f})."
    ]
    if 0.9 < more < 1.1:
        points.append(f"At so near an L0 their FVUs can be compared ({fvus}), for this one run.")
    else:
        points.append(_at_different_l0(fvus, more > 1, afa["fvu"] < topk["fvu"]))
    if afa["l0"] >= width / 2:
        points.append(
            f"Top-AFA's L0 is {afa['l0'] / width:.0%} of the width of the activations ({width}). "
            "So many directions can rebuild nearly any vector, whatever they stand for: a low FVU "
            "there says little about the dictionary."
        )
    points.append(
        "Top-AFA has no k, but L0 is not free: the weight of its norm loss (lambda, "
        f"{afa_weight:g} here) moves it. To compare the "
        "methods, train top-k at top-AFA's L0, with several seeds, on much more text."
    )
    return tag(
        "section",
        tag("h2", "What the comparison says, and what not"),
        tag("ul", [tag("li", point) for point in points]),
    )


def _at_different_l0(fvus: str, afa_has_more: bool, afa_has_lower_fvu: bool) -> str:
    """What two FVUs at different L0 allow to say, and what they do not."""
    unmatched = "They are not at matched L0, so neither FVU nor loss recovered ranks the methods: "
    if afa_has_more == afa_has_lower_fvu:
        return (
            f"{unmatched}the one with more latents has the lower FVU ({fvus}), as expected of any. "
            "Judge each FVU at its own L0."
        )
    sparser, other = ("top-k", "top-AFA") if afa_has_more else ("top-AFA", "top-k")
    return (
        f"{unmatched}the sparser one, {sparser}, also has the lower FVU ({fvus}). With these "
        f"settings and so few rows {other} gives less for more latents; tuned, or trained for "
        "longer, that may change."
    )


def _small(value: float) -> str:
    """A positive number far below 1, as people read it, such as 3.1 times 10⁻⁵."""
    digits, exponent = f"{value:.1e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits} \N{MULTIPLICATION SIGN} 10{raised}"


def reproduction(context: ReportContext) -> Html:
    """What someone needs to get the same numbers, and how long it took."""
    cache, environment = context.cache, context.training["topk"]["environment"]
    packages = ", ".join(
        f"{name} {version}" for name, version in environment["packages"].items() if version
    )
    excluded = ", ".join(
        f"{number:,} {reason.replace('_', ' ')}"
        for reason, number in cache["excluded"].items()
        if number
    )
    facts: list[tuple[str, Child]] = [
        ("Command", tag("code", context.config.command())),
        ("Language model", f"{context.config.model}, weights SHA-256 {cache['weights_hash']}"),
        ("Text", f"{context.config.dataset}, fingerprint {cache['corpus_fingerprint']}"),
        *(
            (a["name"], f"{a['summary']}; license: {a['license']}; from {a['origin']}")
            for a in context.result("fetch")["artifacts"]
        ),
        (
            "Activations",
            f"{cache['rows']:,} rows of {cache['documents']:,} documents in contexts of "
            f"{cache['context_length']} tokens, {cache['dtype']}; left out: {excluded}",
        ),
        *((f"{NAMES[name]} training", _settings(context, name)) for name in DEMO_ACTIVATIONS),
        (
            "Machine",
            f"{environment['platform']}, {environment['device']}, threads used: "
            f"{environment['threads']}",
        ),
        ("Versions", f"Python {environment['python']}, {packages}"),
        ("Written", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
    ]
    times = [
        (
            stage.title,
            f"{stage.seconds:.1f}",
            f"reused; made in {stage.made_in:.1f} s" if stage.reused else "made in this run",
        )
        for stage in context.stages.values()
    ]
    total = sum(stage.seconds for stage in context.stages.values())
    return tag(
        "footer",
        tag("h2", "To make it again"),
        table(["What", "Which"], facts, class_="facts"),
        tag("h3", "Time"),
        table(
            ["Stage", "Seconds now", "How"],
            [*times, ("all stages", f"{total:.1f}", "")],
            class_="times",
        ),
    )


def _settings(context: ReportContext, activation: ActivationName) -> str:
    trainer = context.config.train_config(activation).trainer
    run = context.training[activation]
    begun = RunFolder(context.config.run(activation)).settings_if_begun()
    rule = resolved_defaults(trainer, run["n_latents"], activation)
    used = begun_with(begun) if begun else dataclasses.asdict(rule)
    lambda_ = f", lambda {trainer.afa_coefficient:g}" if activation == "top_afa" else ""
    return (
        f"{run['n_latents']:,} latents, {run['steps']:,} steps of {used['batch_size']:,} rows, "
        f"Adam, lr {used['lr']:g}{lambda_}, seed {trainer.seed}"
    )
