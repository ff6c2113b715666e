"""The foot of the report: how to make it again, and how long it took."""

from datetime import UTC, datetime

from ...training.config import Activation
from ..report.markup import Child, Html, table, tag
from .config import ACTIVATIONS
from .plots import NAMES
from .report_context import ReportContext


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
        *((f"{NAMES[name]} training", _settings(context, name)) for name in ACTIVATIONS),
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


def _settings(context: ReportContext, activation: Activation) -> str:
    trainer = context.config.train_config(activation).trainer
    run = context.training[activation]
    lambda_ = f", lambda {trainer.afa_coefficient:g}" if activation == "top_afa" else ""
    return (
        f"{run['n_latents']:,} latents, {run['steps']:,} steps of {trainer.batch_size:,} rows, "
        f"Adam, lr {trainer.lr:g}{lambda_}, seed {trainer.seed}"
    )
