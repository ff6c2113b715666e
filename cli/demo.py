"""The verb `demo`."""

import shlex

from ..app.demo.config import DEMO_ACTIVATIONS, DemoConfig
from ..app.report.measures import READ_FVU
from ..sae.common.wording import count, counted, duration, percent
from .console import Report, Terminal, next_command, table
from .training_process import training_process

_CONDITIONS = {
    "base": "unsteered",
    "constant": "every token pushed by the features found",
    "per_input": "texts in which one fires",
    "per_token": "tokens at which one fires",
    "random_feature": "equally large pushes along random features, the mean of several",
}


def run(config: DemoConfig, terminal: Terminal) -> Report:
    """Run the whole chain on a small scale, and write a report to look at.

    Fetches the model and the texts, caches activations, trains a top-k and a top-AFA autoencoder
    and evaluates both. Then, with the dictionary that comes with sparsteer or the top-k one, finds
    features of toxic prompts, measures toxicity with and without steering, and selects instruction
    rows. The same command again goes on, and reuses what is there.
    """
    from ..app.demo.pipeline import run_demo

    with training_process(config.device) as stop:
        summary = run_demo(config, say=terminal.say, report=terminal.progress, stop=stop)
    shown = [
        f"{count(summary['tokens'])} activations of {summary['model']} at {summary['site']}, "
        f"in {duration(sum(summary['seconds'].values()))}"
    ]
    for activation in DEMO_ACTIVATIONS:
        sae = summary["saes"][activation]
        rows = (
            ("FVU", f"{sae['fvu']:.4f}", READ_FVU),
            ("L0", f"{sae['l0']:.1f}", "latents active on a row, on average"),
            ("dead", percent(sae["dead_fraction"]), "latents that fired on no held-out row"),
            (
                "recovered",
                percent(sae["loss_recovered"]),
                "of what zeroing the site costs the model",
            ),
            ("speed", count(sae["tokens_per_second"]), "rows trained on in a second"),
        )
        shown += [f"{activation}:", table(*rows)]
    found = summary["features_found"]
    best = f"AUROC {found[0]['auroc_mean']:.2f} for the best"
    numbers = ", ".join(str(feature["feature"]) for feature in found)
    selected = summary["selection"]
    shown += [
        f"features of {config.steered} more active in toxic prompts than in the corpus: {numbers} "
        f"({best})",
        "toxicity of the texts, from 0 to 1:",
        table(
            *(
                (name.replace("_", " "), f"{value:.3f}", _CONDITIONS[name])
                for name, value in summary["toxicity"].items()
            )
        ),
        f"selection for 5 examples of {config.subject}, {selected['selected']} of "
        f"{counted(selected['pool'], 'row')}:",
        table(
            ("precision", percent(selected["precision_of_target_source"]), "of that group"),
            ("by chance", percent(selected["precision_of_random"]), "among random rows"),
        ),
        f"the report, for a browser: {shlex.quote(summary['report'])}",
        next_command("features", "show", config.steered, str(found[0]["feature"])),
    ]
    return Report(values=summary, shown=shown)
