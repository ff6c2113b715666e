"""The section about instruction rows chosen for a subject, and the headlines at the top."""

from typing import Any

from ...sae.common.wording import percent
from ...steering.detox.measure import BASE
from ..report.markup import Html, join, table, tag
from .config import DEMO_ACTIVATIONS
from .report_context import NAMES, ReportContext
from .steered import random_means


def headlines(context: ReportContext) -> Html:
    """A line for each part of the chain, with a link to its section."""
    measures, found = context.measures, context.result("features")
    conditions = context.result("steering")["conditions"]
    randoms = random_means(conditions)
    subject = context.result("selection")["groups"][context.config.subject]
    saes = "; ".join(
        f"{NAMES[name]} misses {percent(measures[name]['fvu'])} of the variance with "
        f"{measures[name]['l0']:.0f} latents a row"
        for name in DEMO_ACTIVATIONS
    )
    best = found["features"][0]
    points = [
        ("numbers", "Autoencoders", f"{saes}."),
        (
            "features",
            "Features",
            f"the one that best tells toxic prompts from ordinary text has an AUROC of "
            f"{best['auroc_mean']:.2f} (chance {found['chance']:.2f}).",
        ),
        (
            "steering",
            "Steering",
            f"toxicity goes from {conditions[BASE]['mean']:.3f} to "
            f"{conditions['constant']['mean']:.3f}, and under equally large random pushes to "
            f"{sum(randoms) / len(randoms):.3f}.",
        ),
        (
            "selection",
            "Selection",
            f"from five examples of “{context.config.subject}”, "
            f"{percent(subject['precision_of_target_source'])} of the rows chosen are of that "
            f"group; by chance {percent(subject['precision_of_random'])}.",
        ),
    ]
    items = [
        tag("li", tag("a", name, href=f"#{section}"), join(": ", text))
        for section, name, text in points
    ]
    return tag("section", tag("h2", "What came out"), tag("ul", items))


def selection(context: ReportContext) -> Html:
    """How many of the chosen rows are of the group that the examples came from."""
    found = context.result("selection")
    groups: dict[str, dict[str, Any]] = found["groups"]
    first = groups[context.config.subject]
    what = (
        f"Instruction rows of several groups ({found['rows']:,} in all, the first "
        f"{found['max_length']} tokens of each) are scored by the generalized Jaccard similarity "
        f"of their mean code with that of {first['target']} examples from one group, and the best "
        f"{percent(found['ratio'])} are taken. The fraction of them that is of the examples' own "
        "group is shown, the mean over several draws of examples; beside it the same fraction for "
        "random rows, and for rows of about the examples' length."
    )
    order = sorted(groups, key=lambda name: name != context.config.subject)
    rows = [
        [
            name.replace("_", " "),
            f"{groups[name]['pool']:,}",
            f"{groups[name]['selected']:,}",
            tag("strong", percent(groups[name]["precision_of_target_source"])),
            percent(groups[name]["precision_of_random"]),
            percent(groups[name]["precision_of_length"]),
        ]
        for name in order
    ]
    head = ["Examples of", "pool", "selected", "own group", "by chance", "by length"]
    caution = (
        "A group is a crude stand-in for a task, and finding its rows again does not show that "
        "training on them helps. Nor does it show that an autoencoder is needed: the cosine of "
        "plain mean activations found the groups as well in a separate measurement "
        "(benchmarks/measure_selection.py). What codes add is that each score can be taken apart "
        "into latents."
    )
    return tag(
        "section",
        tag("h2", "Instruction rows for a subject"),
        tag("p", what),
        table(head, rows, class_="plain"),
        tag("p", caution),
        id="selection",
    )
