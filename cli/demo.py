"""The verb `demo`."""

import shlex

from ..steering.demo.config import ACTIVATIONS, DemoConfig
from .console import READ_FVU, Report, Terminal, count, duration, next_command, share, table


def run(config: DemoConfig, terminal: Terminal) -> Report:
    """Run the whole chain on a small scale, and write a report to look at.

    Fetches the model and the text, caches activations, trains a top-k and a top-AFA autoencoder and
    evaluates both. The same command again goes on, and reuses what is there.
    """
    from ..steering.demo.pipeline import run_demo

    summary = run_demo(config, say=terminal.say, report=terminal.progress)
    shown = [
        f"{count(summary['tokens'])} activations of {summary['model']} at {summary['site']}, "
        f"in {duration(sum(summary['seconds'].values()))}"
    ]
    for activation in ACTIVATIONS:
        sae = summary["saes"][activation]
        rows = (
            ("FVU", f"{sae['fvu']:.4f}", READ_FVU),
            ("L0", f"{sae['l0']:.1f}", "latents active on a row, on average"),
            ("dead", share(sae["dead_share"]), "latents that fired on no held-out row"),
            ("recovered", share(sae["loss_recovered"]), "of what zeroing the site costs the model"),
            ("speed", count(sae["tokens_per_second"]), "rows trained on in a second"),
        )
        shown += [f"{activation}:", table(*rows)]
    shown += [
        f"the report, for a browser: {shlex.quote(summary['report'])}",
        next_command("train", "--help"),
    ]
    return Report(values=summary, shown=shown)
