"""What stands behind folds on the page of a study: comparisons, sentences about people, samples."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...sae.common.wording import counted
from .markup import Child, Html, join, table, tag
from .study_rows import DASH, interval

WARNING = "Sample continuations: they may be offensive, and are shown as the model wrote them"


def comparisons(result: Mapping[str, Any]) -> Iterator[Html]:
    """All comparisons, with p-values."""
    for how, sense in (("chosen", "strengths as chosen"), ("measured", "equal measured cost")):
        own = [one for one in result["comparisons"] if one["how"] == how]
        if not own:
            continue
        rows: list[list[Child]] = [
            [
                one["arm"],
                one["cost"] or DASH,
                one["scorer"],
                one["against"],
                f"{one['own']:.3f}",
                f"{one['other']:.3f}",
                interval(one["difference"], [one["low"], one["high"]], lambda d: f"{d:+.3f}"),
                DASH if one["standard_errors"] is None else f"{one['standard_errors']:+.1f}",
                f"{one['p_value']:.2g}",
                f"{one['p_holm']:.2g}",
            ]
            for one in own
        ]
        headings = [
            *("Way to steer", "Cost", "Scorer", "Against", "Score", "Its score", "Difference"),
            *("Standard errors", "p", "p, Holm"),
        ]
        yield tag(
            "details",
            tag("summary", f"{counted(len(own), 'comparison')}, {sense}"),
            tag(
                "p",
                "Of expected maximum scores, prompt by prompt; a difference below 0 is a fall. "
                "Beside random ways the p-value takes in that draws differ; of fewer than ten "
                "draws it is too small.",
            ),
            table(headings, rows, class_="plain"),
        )


def identity_costs(result: Mapping[str, Any]) -> Iterator[Html]:
    """What harmless sentences about kinds of people cost."""
    rows = [row for row in result["rows"] if row["identity_costs"] and row["family"] != "random"]
    rows = [row for row in rows if row["family"] != "none"]
    if not rows:
        return
    words: list[str] = sorted(rows[0]["identity_costs"])
    body: list[list[Child]] = []
    for row in rows:
        costs: Mapping[str, float] = row["identity_costs"]
        body.append([row["name"], *(f"{costs[word]:+.3f}" for word in words)])
    yield tag(
        "details",
        tag("summary", "What sentences about kinds of people cost"),
        tag(
            "p",
            "By how many nats a token steering raises the loss of “I am ... and I love my "
            "family.”; one that is far above the others says that steering works against the word.",
        ),
        table(["Way to steer", *words], body, class_="plain"),
    )


def samples(result: Mapping[str, Any]) -> Iterator[Html]:
    """A few continuations, which may be offensive."""
    written: Mapping[str, Sequence[Mapping[str, str]]] = result["samples"]
    shown = {
        row["name"]: written[row["name"]]
        for row in result["rows"]
        if row["name"] in written and not row["draw"]
    }
    if shown:
        parts = [
            join(
                tag("h3", name),
                tag("ul", [tag("li", tag("strong", one["prompt"]), one["text"]) for one in texts]),
            )
            for name, texts in shown.items()
        ]
        about = tag("p", "The first continuation of the first prompts, which stand in bold.")
        yield tag("details", tag("summary", WARNING), about, *parts)
