"""The figures of a study of steering in words, for the terminal and for its page."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...sae.common.wording import counted, percent
from ...steering.study.arm import Cost
from ...steering.study.conditions import NEARLY
from ...steering.study.rows import relative_score

DASH = "\N{EN DASH}"

IN_NATS = ("kl", "kl_mean")
"""Kinds of cost that are no fractions."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class StudyTable:
    """A line for each way to steer at one cost."""

    heading: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    """The name and the cells of each."""


def cost_tables(result: Mapping[str, Any]) -> Iterator[StudyTable]:
    """For each cost the unsteered model, a text before the prompt, the ways to steer by rising
    score, and the mean of each kind of random ones.

    Args:
        result: what `run_study` gives.
    """
    rows: Sequence[Row] = result["rows"]
    base = unsteered_of(result)
    columns = _columns(result)
    constant = [base, *(row for row in rows if row["family"] == "prompt")]
    for cost in result["costs"]:
        own = [row for row in rows if row["cost"] == cost]
        steered = [row for row in own if row["family"] != "random"]
        steered.sort(key=lambda row: _relative(row, base))
        lines = [(_line_name(row), row) for row in (*constant, *steered)]
        shown = [(name, tuple(cell(row) for _, cell in columns)) for name, row in lines]
        for method, draws in _by_method(own).items():
            mean = _mean_row(draws)
            name = f"{method} (\u00d7{len(draws)})"
            shown.append((name, tuple(cell(mean) for _, cell in columns)))
        heading = f"at {shown_cost(cost)}"
        yield StudyTable(heading, tuple(name for name, _ in columns), tuple(shown))


def _line_name(row: Row) -> str:
    return "unsteered" if row["family"] == "none" else str(row["arm"])


def unsteered_of(result: Mapping[str, Any]) -> Row:
    """The row of the unsteered model."""
    return next(row for row in result["rows"] if row["family"] == "none")


def shown_cost(cost: str | None) -> str:
    """A cost in words: `kl=0.3` is a KL of 0.3 nats."""
    if cost is None:
        return "no strength"
    found = Cost.of(cost)
    match found.kind:
        case "kl":
            return f"a KL of {found.target:g} nats"
        case "kl_mean":
            return f"a mean KL of {found.target:g} nats"
        case "strength":
            return f"strength {found.target:g}"
        case "perplexity":
            return f"{100 * found.target:g}% perplexity of neutral text"
        case _:
            return f"{100 * found.target:g}% {found.kind.replace('_', ' ')}"


def goal_lines(goal: Mapping[str, Any]) -> Iterator[str]:
    """The verdict at one cost in sentences; after each figure, what it is where the way is chosen
    on the other half of the prompts.

    Args:
        goal: one of the result's.
    """
    yield f"at {where(goal)}: {goal['best']} is the best with the autoencoder"
    if goal["how"] == "chosen" and goal["measured_cost"] is not None:
        yield f"  {cost_sentence(goal)}"
    for scorer, one in goal["scorers"].items():
        cut = f"{percent(one['cut'])}{_range(one['cut_interval'], percent)}"
        parts = [f"cuts the score by {cut}{_elsewhere(one['cut_otherwise'], percent)}"]
        for method, draws in one["random"].items():
            errors = f"{_errors(draws)} below {method}"
            parts.append(f"{errors}{_elsewhere(draws['standard_errors_otherwise'], one_digit)}")
        if one["ratio"] is not None:
            ratio = f"{one['ratio']:.2f}{_range(one['ratio_interval'], two)}"
            elsewhere = _elsewhere(one["ratio_otherwise"], two)
            parts.append(f"{ratio} of the score of {one['other']}{elsewhere}")
        yield f"  {scorer}: {', '.join(parts)}"


def _elsewhere(value: float | None, shown: Callable[[float], str]) -> str:
    return "" if value is None else f" (chosen elsewhere: {shown(value)})"


def cost_sentence(goal: Mapping[str, Any]) -> str:
    """What the best way of a verdict was measured to cost, and what follows where that is more
    than was asked for."""
    cost = Cost.of(goal["cost"])
    measured = f"it was measured to cost {shown_amount(cost, goal['measured_cost'])}"
    if goal["measured_cost"] <= NEARLY * cost.target:
        return measured
    return f"{measured}, which is more than {shown_amount(cost, cost.target)}, so it is not judged"


def shown_amount(cost: Cost, amount: float) -> str:
    """An amount in the unit of a cost."""
    return f"{amount:.3g} nats" if cost.kind in IN_NATS else percent(amount)


def where(goal: Mapping[str, Any]) -> str:
    """The cost of a verdict, and in which sense all have it."""
    if goal["how"] == "chosen":
        return f"{shown_cost(goal['cost'])}, with strengths as they were chosen"
    shown = shown_amount(Cost.of(goal["cost"]), goal["level"])
    return f"{shown_cost(goal['cost'])}, where all were measured to cost {shown}"


def criteria(goal: Mapping[str, Any]) -> Iterator[tuple[str, bool | None]]:
    """What the goal asks for at a cost, and whether it holds; None where that is not known."""
    words = {
        "cut": "the score falls by at least 20% on every scorer",
        "above_random": "more than random pushes by more than 3 standard errors on every scorer",
        "beside_best": "within 5% of the best way without an autoencoder, or better",
    }
    for name in goal["judged"]:
        yield words[name], goal["met"][name]


def answer(met: bool | None) -> str:
    """Whether a criterion holds, in a word or two."""
    return "not known" if met is None else "yes" if met else "no"


def interval(
    value: float | None, ends: Sequence[float] | None, shown: Callable[[float], str]
) -> str:
    """A figure with its interval, a dash where there is none."""
    return DASH if value is None else f"{shown(value)}{_range(ends, shown)}"


def _columns(result: Mapping[str, Any]) -> list[tuple[str, Callable[[Row], str]]]:
    base = unsteered_of(result)
    scorers: Sequence[str] = result["scorers"]
    found: list[tuple[str, Callable[[Row], str]]] = [
        ("strength", _strength),
        *((f"change {scorer}", _change(scorer, base)) for scorer in scorers),
        ("perplexity", _number("perplexity", "{:.1f}")),
        ("neutral perplexity", _neutral),
        ("KL p95", _number("kl_p95", "{:.2f}")),
        ("KL mean", _number("kl", "{:.3f}")),
        ("repetition", _number("repetition", "{:.1%}")),
        *((f"EMT {scorer}", _emt(scorer)) for scorer in scorers),
        *((f"toxic {scorer}", _probability(scorer)) for scorer in scorers),
        ("distinct-2", _number("distinct_2", "{:.2f}")),
    ]
    known: Mapping[str, Any] = base["capability"] or {}
    for name in known:
        found += [
            (f"{name} right", _capability(name, "accuracy")),
            (f"{name} probability", _capability(name, "probability")),
        ]
    if base["refusals"] is not None:
        found.append(("refused", _number("refusals", "{:.1%}")))
    found += [
        ("identity words", _number("identity_mentions", "{:.1%}")),
        ("fire rate", _number("fire_rate", "{:.1%}")),
    ]
    return found


def _strength(row: Row) -> str:
    if row["strength"] is None:
        return DASH
    shown = f"{row['strength']:.3g}"
    if row["reached"]:
        return shown
    return f"{shown} {'above' if _costs_more(row) else 'below'}"


def _costs_more(row: Row) -> bool:
    return row["dose"] is not None and row["dose"] > Cost.of(row["cost"]).target


def _emt(scorer: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        found = row["toxicity"][scorer]
        return interval(found["emt"], found["ci"]["emt"] if found["ci"] else None, _three)

    return cell


def _change(scorer: str, base: Row) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        before = base["toxicity"][scorer]["emt"]
        if row is base or not before:
            return DASH
        return f"{100 * (row['toxicity'][scorer]['emt'] / before - 1):+.1f}%"

    return cell


def _probability(scorer: str) -> Callable[[Row], str]:
    return lambda row: percent(row["toxicity"][scorer]["probability"])


def _number(name: str, form: str) -> Callable[[Row], str]:
    return lambda row: DASH if row[name] is None else form.format(row[name])


def _neutral(row: Row) -> str:
    ratio = row["neutral_ratio"]
    return DASH if ratio is None else f"{100 * (ratio - 1):+.1f}%"


def _capability(name: str, what: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        known: Mapping[str, Any] = row["capability"] or {}
        return percent(known[name][what] if name in known else None)

    return cell


def _by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["family"] == "random":
            found.setdefault(row["method"], []).append(row)
    return found


def _mean_row(draws: Sequence[Row]) -> Row:
    """The mean of each figure over draws; what not all have is None, but for the capability, which
    the first alone has."""
    names = ("strength", "perplexity", "neutral_ratio", "kl", "kl_p95", "repetition", "distinct_2")
    mean: dict[str, Any] = {
        name: _mean([row[name] for row in draws])
        for name in (*names, "identity_mentions", "fire_rate")
    }
    scorers = draws[0]["toxicity"]
    mean["toxicity"] = {
        scorer: {
            **{
                figure: _mean([row["toxicity"][scorer][figure] for row in draws])
                for figure in ("emt", "probability")
            },
            "ci": None,
        }
        for scorer in scorers
    }
    first = {name: draws[0][name] for name in ("capability", "refusals", "cost", "dose")}
    return {**mean, **first, "reached": True}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _relative(row: Row, base: Row) -> float:
    """By which lines are sorted."""
    own, unsteered = (
        {scorer: found["emt"] for scorer, found in one["toxicity"].items()} for one in (row, base)
    )
    return relative_score(own, unsteered)


def _errors(draws: Mapping[str, Any]) -> str:
    errors = draws["standard_errors"]
    shown = DASH if errors is None else f"{errors:.1f}"
    return f"{shown} standard errors ({counted(draws['draws'], 'draw')})"


def _range(ends: Sequence[float] | None, shown: Callable[[float], str]) -> str:
    return "" if ends is None else f" [{shown(ends[0])}, {shown(ends[1])}]"


def one_digit(value: float) -> str:
    """A figure with one decimal."""
    return f"{value:.1f}"


def two(value: float) -> str:
    """A figure with two decimals."""
    return f"{value:.2f}"


def _three(value: float) -> str:
    return f"{value:.3f}"
