"""The verbs `score`, `select` and `explain`."""

from typing import Any

from ..sae.common.text import visible
from ..sae.common.wording import count, counted, duration, percent
from ..steering.selection.config import ExplainConfig, ScoreConfig, SelectConfig
from .console import Report, Terminal, next_command, table


def score(config: ScoreConfig, terminal: Terminal) -> Report:
    """Score rows of instruction data by their likeness to a target task.

    FILE is the rows; they are written with the columns score, status and tokens, unchanged and in
    order. The same command again goes on where it was interrupted.
    """
    from ..steering.selection.scoring import score as score_file

    with terminal.progress("scoring", "rows") as update:
        values = score_file(
            config, say=terminal.say, report=lambda done, total: update(done, total, "")
        )
    target = values["target"]
    when = "when they were scored, and nothing was done now; " if values["reused"] else ""
    rows = [
        ("target", count(target["used"]), f"examples read of {count(target['rows'])}"),
        (
            "scored",
            count(values["scored"]),
            f"of {counted(values['rows'], 'row')}{_others(values)}",
        ),
        *_spread(values),
        (
            "time",
            duration(values["seconds"]),
            f"{when}the rows have {counted(values['tokens'], 'token')}",
        ),
    ]
    if values["in_target"]:
        same = "rows are examples of the target themselves, and sure to score high"
        rows.insert(2, ("overlap", count(values["in_target"]), same))
    if excluded := values["excluded"]["rows"]:
        first = "; ".join(values["excluded"]["first"])
        rows.insert(2, ("left out", count(excluded), f"rows that cannot be read: {first}"))
    shown = (
        f"the rows and their scores lie in {config.out}",
        table(*rows),
        next_command("select", config.out, "--ratio", "0.05", "--out", "FILE"),
    )
    return Report(values=values, shown=shown)


def select(config: SelectConfig, terminal: Terminal) -> Report:
    """Take the rows with the highest scores, by ratio or count.

    FILE is the rows with their scores. Those taken are written unchanged and in their order.
    """
    from ..steering.selection.selecting import select as select_rows

    values = select_rows(config)
    left = values["highest_left"]
    cut = "nothing scored is left" if left is None else f"the highest that is left is {left:.4f}"
    unscored = values["rows"] - values["scored"]
    short = values["selected"] < values["asked"]
    asked = f"; the ratio asks for {count(values['asked'])}, but no more have a score"
    of_all = f"of {counted(values['rows'], 'row')}{asked if short else ''}"
    rows = [
        ("selected", count(values["selected"]), of_all),
        ("unscored", count(unscored), "rows without a score are never taken"),
        ("cut", f"{values['lowest_selected']:.4f}", f"the lowest score taken; {cut}"),
    ]
    if tokens := values["mean_tokens"]:
        longer = f"tokens of a selected row, on average; {tokens['scored']:.1f} of a scored one"
        rows.append(("length", f"{tokens['selected']:.1f}", longer))
    return Report(values=values, shown=(f"the selection is in {config.out}", table(*rows)))


def explain(config: ExplainConfig, terminal: Terminal) -> Report:
    """Take a row's score apart into the features that it shares with the target.

    FILE is the rows with their scores, as `score` wrote them. The shares add up to the score.
    """
    from ..steering.selection.explaining import explain as explain_row

    values = explain_row(config, say=terminal.say)
    score, tokens = values["score"], values["tokens"]
    rows = [
        ("score", f"{score:.4f}", f"of row {count(values['row'])}; {_named_features(values)}"),
        ("only the row", percent(values["only_row"]), "has features that the target lacks"),
        ("only the target", percent(values["only_target"]), "has what the row lacks"),
    ]
    shared = [
        (
            f"feature {each['feature']}",
            percent(each["share"] / score if score else 0),
            f"of the score; on {_strongest(each['activations'], tokens)}",
        )
        for each in values["features"]
    ]
    missing = ", ".join(str(each["feature"]) for each in values["missing"]) or "none"
    shown = (table(*rows), table(*shared), f"the target has, and the row lacks most: {missing}")
    return Report(values=values, shown=shown)


_TOKENS_SHOWN = 4


def _named_features(values: dict[str, Any]) -> str:
    return f"{counted(values['shared_features'], 'feature')} in common with the target"


def _strongest(activations: list[float], tokens: list[str]) -> str:
    """The tokens at which a feature fires most, each once."""
    order = sorted(range(len(tokens)), key=lambda place: -activations[place])
    texts = dict.fromkeys(tokens[place] for place in order if activations[place] > 0)
    return " ".join(repr(visible(text)) for text in list(texts)[:_TOKENS_SHOWN])


def _others(values: dict[str, Any]) -> str:
    """How many rows have which status, but for the ordinary one."""
    others = [
        f"; {name} {count(values['statuses'][name])} ({_named(first, values['statuses'][name])})"
        for name, first in values["status_rows"].items()
    ]
    return "".join(others)


def _named(rows: list[int], n_rows: int) -> str:
    """The first rows of a status, counted from 1."""
    word = "row" if n_rows == 1 else "rows"
    return f"{word} {', '.join(map(str, rows))}{', ...' if n_rows > len(rows) else ''}"


def _spread(values: dict[str, Any]) -> list[tuple[str, str, str]]:
    spread, correlation = values["score"], values["spearman_tokens"]
    if spread is None:
        return []
    low, high = f"{spread['p5']:.4f}", f"{spread['p95']:.4f}"
    rows = [
        (
            "median",
            f"{spread['median']:.4f}",
            f"of the scores; {percent(0.9)} lie in {low} to {high}",
        )
    ]
    if correlation is not None:
        how = "rank correlation of score and tokens; near 1 or -1 the score is mostly length"
        rows.append(("length", f"{correlation:+.2f}", how))
    return rows
