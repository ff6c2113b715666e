"""The page of a study of steering: verdict, table, fronts, sweeps, samples; it loads nothing."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...sae.common.wording import count, counted, percent
from ...steering.study.arm import Cost
from .files import has_matplotlib, write_page
from .inline import PAGE, for_page
from .markup import Child, Html, join, table, tag
from .page import figure, page
from .plots import Drawing
from .study_folds import comparisons, identity_costs, samples
from .study_plots import calibration_sweeps, study_fronts
from .study_rows import (
    DASH,
    StudyTable,
    answer,
    cost_sentence,
    cost_tables,
    criteria,
    interval,
    one_digit,
    shown_amount,
    shown_cost,
    two,
    where,
)

PAGE_FILE = "report.html"

Figures = Sequence[tuple[Drawing, str]]
"""Drawings for a page, each with its caption."""

_READING = (
    "EMT is the expected maximum score: the largest among a prompt's continuations, averaged over "
    "prompts; in brackets stands an interval of 95% over prompts. Change is from the unsteered "
    "model; toxic is the fraction of prompts with a continuation that scores above one half. "
    "Perplexity is that of the continuations under the unsteered model; dull and repeated text has "
    "a low one, so read it beside repetition. Neutral perplexity is its rise on ordinary text "
    "under steering. KL is that of the steered from the unsteered model at the tokens that were "
    "written, in nats. The fire rate is the fraction of tokens of ordinary text that are changed "
    "at all. Of random ways stands the mean over so many draws, each with a strength of its own; "
    "their answers to questions are those of the first draw."
)
_VERDICT = (
    "Of the ways to steer with the autoencoder the best one is judged: the one whose score, "
    "divided by the unsteered one and averaged over scorers, is lowest. It is chosen and judged on "
    "the same prompts, which flatters it; in the lines “chosen elsewhere” the way is chosen on "
    "one half of the prompts and judged on the other."
)


def write_study_page(result: Mapping[str, Any]) -> Path:
    """Write the page of what `run_study` found into its folder, and give its path; without
    matplotlib it has no plots."""
    return write_page(Path(result["folder"]) / PAGE_FILE, study_page(result))


def study_page(result: Mapping[str, Any], *, with_plots: bool | None = None) -> str:
    """The text of the page.

    Args:
        result: what `run_study` gives.
        with_plots: whether plots are drawn, by default where matplotlib is installed.
    """
    drawn = has_matplotlib() if with_plots is None else with_plots
    fronts = list(study_fronts(result, PAGE)) if drawn else []
    sweeps = list(calibration_sweeps(result, PAGE)) if drawn else []
    sections = (
        tag("h1", "Ways to steer, at equal cost"),
        tag("p", _lead(result)),
        *_cautions(result),
        *_verdict(result),
        *(join(tag("h2", _capital(one.heading)), _table(one)) for one in cost_tables(result)),
        tag("p", _READING),
        *_plots("Fronts", fronts),
        *comparisons(result),
        *identity_costs(result),
        *_plots("How strengths were chosen", sweeps),
        *samples(result),
    )
    return page("Ways to steer, at equal cost", sections)


def _lead(result: Mapping[str, Any]) -> str:
    sizes, run = result["sizes"], result["run"]
    of = f", features of {run}" if run else ""
    costs = " and at ".join(shown_cost(cost) for cost in result["costs"])
    return (
        f"{result['model']} is steered at {result['site']}{of}. Each way to steer continues "
        f"{counted(sizes['prompts'], 'prompt')} {count(sizes['continuations'])} times, all from "
        f"the same random numbers, at {costs}. Scored by {_named(result['scorers'])}."
    )


def _verdict(result: Mapping[str, Any]) -> Iterator[Html]:
    """The goal at each cost, where there is a way with an autoencoder."""
    if not result["goal"]:
        return
    yield tag("h2", "Is the autoencoder worth it?")
    yield tag("p", _VERDICT)
    for goal in result["goal"]:
        yield tag("h3", f"At {where(goal)}: {goal['best']}")
        scorers: Mapping[str, Mapping[str, Any]] = goal["scorers"]
        yield table(["Figure", *scorers], _goal_rows(goal, list(scorers.values())), class_="plain")
        if goal["how"] == "chosen" and goal["measured_cost"] is not None:
            yield tag("p", f"On these prompts {cost_sentence(goal)}.")
        judged = [
            tag("li", join(f"{words}: ", tag("strong", answer(met))))
            for words, met in criteria(goal)
        ]
        if judged:
            yield tag("ul", judged)


def _goal_rows(
    goal: Mapping[str, Any], scorers: Sequence[Mapping[str, Any]]
) -> Iterator[list[Child]]:
    """A line for each figure, with a cell for each scorer."""
    yield ["unsteered score", *(f"{one['unsteered']:.3f}" for one in scorers)]
    yield [f"score of {goal['best']}", *(f"{one['best']:.3f}" for one in scorers)]
    yield ["falls by", *(interval(one["cut"], one["cut_interval"], percent) for one in scorers)]
    yield ["falls by, chosen elsewhere", *(percent(one["cut_otherwise"]) for one in scorers)]
    for method in dict.fromkeys(name for one in scorers for name in one["random"]):
        draws = [one["random"].get(method, {}) for one in scorers]
        for key, words in (("", ""), ("_otherwise", ", chosen elsewhere")):
            errors = (one.get(f"standard_errors{key}") for one in draws)
            shown = (interval(each, None, one_digit) for each in errors)
            yield [f"standard errors below {method}{words}", *shown]
    yield ["best way without it", *(one["other"] or DASH for one in scorers)]
    if goal["how"] == "chosen":
        shown = partial(shown_amount, Cost.of(goal["cost"]))
        amounts = (interval(one["other_cost"], None, shown) for one in scorers)
        yield ["its measured cost", *amounts]
    yield [
        "score / its score",
        *(interval(one["ratio"], one["ratio_interval"], two) for one in scorers),
    ]
    yield [
        "score / its score, chosen elsewhere",
        *(interval(one["ratio_otherwise"], None, two) for one in scorers),
    ]


def _table(one: StudyTable) -> Html:
    # Each cell stays on one line.
    rows = [[name, *(cell.replace(" ", "\u00a0") for cell in cells)] for name, cells in one.lines]
    return table(["Way to steer", *map(_capital, one.columns)], rows, class_="plain")


def _plots(heading: str, figures: Figures) -> Iterator[Html]:
    if figures:
        yield tag("h2", heading)
        shown = [figure(for_page(drawing), caption) for drawing, caption in figures]
        yield tag("div", join(*shown), class_="figures")


def _cautions(result: Mapping[str, Any]) -> Iterator[Html]:
    sentences = [
        *result["cautions"],
        *(f"left out: {one['name']}: {one['why']}" for one in result["failed"]),
        *(
            f"not compared at {shown_cost(one['cost'])} ({_sense(one)}): {', '.join(one['arms'])}"
            for one in result["excluded"]
        ),
        *(f"{row['name']}: {text}" for row in result["rows"] for text in row["warnings"]),
    ]
    if sentences:
        items = [tag("li", sentence) for sentence in sentences]
        yield tag("section", tag("h2", "Cautions"), tag("ul", items), class_="notice")


def _sense(excluded: Mapping[str, Any]) -> str:
    if excluded["how"] == "chosen":
        return "the nearest of the strengths that were tried costs more"
    return "at no strength were they measured to cost nearly as much, or at the smallest more"


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
