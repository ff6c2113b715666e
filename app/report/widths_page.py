"""The page of steering over widths: how a concept is shared out, and what steering is worth."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...sae.common.wording import count
from ...steering.widths.config import METHODS
from .files import write_page
from .inline import PAGE, for_page
from .markup import Html, join, table, tag
from .page import figure, page
from .plots import PAPER, Drawing, Palette, Plot, styles
from .study_rows import DASH

PAGE_FILE = "widths.html"

RANDOM = "random latents (mean)"

SPLITTING_HEADINGS = (
    *("dictionary", "latents", "best latent", "AUROC", "share its direction", "by chance"),
    *("share the narrowest one's", "by chance", "share the difference of means"),
    *("best latent's cosine", "group", "its mean's cosine"),
)
"""Of `splitting_rows`; both cosines are with the difference of means."""


def splitting_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """How each dictionary shares out the concept, as text under `SPLITTING_HEADINGS`; dashes where
    no latent tells the texts apart."""
    rows: list[tuple[str, ...]] = []
    for run in result["runs"]:
        split, best, width = run["splitting"], run["best"], count(run["n_latents"])
        if best is None:
            rows.append((run["name"], width, *[DASH] * (len(SPLITTING_HEADINGS) - 2)))
            continue
        own, reference = split["own_best"], split["reference_best"]
        rows.append(
            (
                run["name"],
                width,
                str(best["feature"]),
                f"{best['auroc']:.3f}",
                count(own["count"]),
                f"{own['by_chance']:.2f}",
                count(reference["count"]),
                f"{reference['by_chance']:.2f}",
                count(split["difference"]["count"]),
                f"{split['best_cosine']:+.2f}",
                count(len(run["group"])),
                DASH if split["group_cosine"] is None else f"{split['group_cosine']:+.2f}",
            )
        )
    return rows


def about_reference(result: Mapping[str, Any]) -> str:
    """In a clause, which dictionary the others are held against."""
    reference, narrowest = result["reference"], result["runs"][0]["name"]
    if reference is None:
        return "in no dictionary a latent tells the texts apart"
    if reference == narrowest:
        return f"{reference} is the narrowest dictionary"
    return f"{reference} is the narrowest dictionary in which a latent tells the texts apart"


def steering_headings(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of `steering_rows`."""
    return ("dictionary", "steered with", "strength", *result["scorers"], "perplexity of neutral")


def steering_rows(result: Mapping[str, Any], cost: str, tier: str) -> list[tuple[str, ...]]:
    """Expected maximum scores at a cost under a tier, as text: the unsteered model, and of each
    dictionary every way and the mean of its random latents. `*`: the strength misses the cost."""
    first = result["runs"][0]["rows"]
    rows = [_steering_row("", "nothing", [one for one in first if one["method"] == "none"], result)]
    for run in result["runs"]:
        own = [row for row in run["rows"] if row["cost"] == cost]
        for method, words in METHODS.items():
            found = [row for row in own if (row["method"], row["tier"]) == (method, tier)]
            if found:
                rows.append(_steering_row(run["name"], words, found, result))
        draws = [row for row in own if row["family"] == "random"]
        if draws:
            rows.append(_steering_row(run["name"], RANDOM, draws, result))
    return rows


def comparison_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The comparisons as text: what, beside what, at which cost, by which scorer, the difference
    with its interval, and Holm's p-value."""
    rows: list[tuple[str, ...]] = []
    for one in result["comparisons"]:
        rows.append(
            (
                f"{one['run']}: {METHODS[one['method']]}",
                f"{one['other_run']}: {METHODS[one['other_method']]}",
                f"{one['cost']}, {one['tier']}",
                one["scorer"],
                f"{one['difference']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]",
                f"{one['p_holm']:.3g}",
            )
        )
    return rows


COMPARISON_HEADINGS = ("way", "beside", "at", "scorer", "difference", "p (Holm)")


def write_widths_page(result: Mapping[str, Any], *, with_plots: bool) -> Path:
    """Write the page of what `run_widths` found into its folder, and give its path.

    Args:
        result: what `run_widths` gives.
        with_plots: whether plots are drawn, for which matplotlib is needed.
    """
    drawings = list(width_plots(result, PAGE)) if with_plots else []
    return write_page(Path(result["folder"]) / PAGE_FILE, widths_page(result, drawings))


def width_plots(result: Mapping[str, Any], palette: Palette = PAPER) -> Iterator[Drawing]:
    """Expected maximum score against the number of latents, a plot for each cost, tier and scorer;
    none where all dictionaries are equally wide."""
    if len({run["n_latents"] for run in result["runs"]}) < 2:
        return
    looks = styles([*METHODS.values(), RANDOM])
    for cost in result["costs"]:
        for tier in result["tiers"]:
            for scorer in result["scorers"]:
                title = f"{scorer} against the number of latents, at {cost}, {tier}"
                with Plot(title, palette) as plot:
                    for look, points in zip(looks, _lines(result, cost, tier, scorer), strict=True):
                        plot.marked_line(look, points)
                    base = _unsteered(result)["toxicity"][scorer]["emt"]
                    plot.axes.axhline(base, color=palette.neutral, linewidth=1)
                    plot.axes.set_xscale("log")
                    plot.axes.margins(x=0.1, y=0.1)
                    plot.plain_log_ticks(plot.axes.xaxis)
                    plot.label("latents", f"expected maximum of {scorer}")
                    plot.legend_below()
                yield plot.drawing


def widths_page(result: Mapping[str, Any], drawings: Sequence[Drawing]) -> str:
    """The text of the page.

    Args:
        result: what `run_widths` gives.
        drawings: plots, drawn for a page.
    """
    runs = result["runs"]
    lead = (
        f"{len(runs)} dictionaries of {result['model']} at "
        f"{result['site']}, the narrowest first. Latents were chosen on other texts than those of "
        "the figures. A random latent stands for what any push of that cost does."
    )
    shared = (
        f"Latents share a direction where the cosine is at least {result['least_cosine']:g}; by "
        f"chance is how many share that of a random latent; {about_reference(result)}. Equal "
        "directions do not say that the latents fire on the same texts."
    )
    figures = [
        figure(for_page(drawing), f"{drawing.label}. The level line is the unsteered model.")
        for drawing in drawings
    ]
    return page(
        "Steering over widths",
        (
            tag("h1", "Steering over widths"),
            tag("p", lead),
            *([tag("div", join(*figures), class_="figures")] if figures else []),
            tag("h2", "How the concept is shared out"),
            tag("p", shared),
            table(SPLITTING_HEADINGS, splitting_rows(result), class_="plain"),
            *_steering_sections(result),
            tag("h2", "Comparisons"),
            tag(
                "p",
                "Differences of each prompt's largest score, paired, with 95% bootstrap "
                "intervals; below 0 the first way leaves less.",
            ),
            table(COMPARISON_HEADINGS, comparison_rows(result), class_="plain"),
        ),
    )


def _steering_sections(result: Mapping[str, Any]) -> Iterator[Html]:
    for cost in result["costs"]:
        for tier in result["tiers"]:
            yield tag("h2", f"Expected maximum scores at {cost}, {tier}")
            rows = steering_rows(result, cost, tier)
            yield table(steering_headings(result), rows, class_="plain")


def _steering_row(
    run: str, words: str, found: Sequence[Mapping[str, Any]], result: Mapping[str, Any]
) -> tuple[str, ...]:
    """One line of rows that stand together: their means."""
    strengths = [row["strength"] for row in found if row["strength"] is not None]
    missed = "" if all(row["reached"] for row in found) else " *"
    single = len(found) == 1 and strengths
    return (
        run,
        words,
        f"{strengths[0]:.3g}{missed}" if single else f"{DASH}{missed}",
        *(f"{_mean_emt(found, scorer):.3f}" for scorer in result["scorers"]),
        _mean_perplexity(found),
    )


def _mean_perplexity(found: Sequence[Mapping[str, Any]]) -> str:
    values = [row["neutral_perplexity"] for row in found]
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.2f}" if known else DASH


def _mean_emt(found: Sequence[Mapping[str, Any]], scorer: str) -> float:
    return sum(row["toxicity"][scorer]["emt"] for row in found) / len(found)


def _unsteered(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(row for row in result["runs"][0]["rows"] if row["method"] == "none")


def _lines(
    result: Mapping[str, Any], cost: str, tier: str, scorer: str
) -> Iterator[list[tuple[int, float]]]:
    """Of each way, and of the random latents, the points of width and score."""
    for method in (*METHODS, None):
        points: list[tuple[int, float]] = []
        for run in result["runs"]:
            own = [row for row in run["rows"] if row["cost"] == cost]
            wanted = (
                [row for row in own if row["family"] == "random"]
                if method is None
                else [row for row in own if (row["method"], row["tier"]) == (method, tier)]
            )
            if wanted:
                points.append((run["n_latents"], _mean_emt(wanted, scorer)))
        yield points
