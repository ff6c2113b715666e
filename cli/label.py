"""The verb `features label`."""

from typing import TYPE_CHECKING, Any

from ..sae.common.text import visible
from ..sae.common.wording import count, counted
from ..steering.labels.config import LabelConfig
from .console import Report, Terminal, next_command

if TYPE_CHECKING:
    from rich.console import RenderableType


def run(config: LabelConfig, terminal: Terminal) -> Report:
    """Let a language model label features, and score each label on examples it was not made from.

    RUN is the folder of a run with a feature index. The labels are in its labels.jsonl; a label of
    a pick, which a person wrote, goes before them everywhere. --dry-run says what it would cost.
    """
    from ..steering.labels.labeling import label_features

    with terminal.progress("labeling", "features") as update:
        values = label_features(config, say=terminal.say, report=update)
    if values.get("dry_run"):
        return Report(values=values, shown=_dry_run(values))
    labels: list[dict[str, Any]] = values["labels"]
    shown: list[RenderableType] = [
        f"labeled {counted(len(labels), 'feature')} of {config.run} by {values['model']} at "
        f"{values['endpoint']}"
    ]
    if labels:
        shown += [_table(labels), _how_good(labels)]
    shown += [
        *_rejected(values),
        *_left_alone(values["left_alone"]),
        f"asked: {counted(values['requests'], 'request')}, {count(values['tokens_in'])} tokens in "
        f"and {count(values['tokens_out'])} out, {counted(values['repeated'], 'request')} repeated",
        next_command("features", "list", config.run),
    ]
    return Report(values=values, shown=shown)


def _table(labels: list[dict[str, Any]]) -> "RenderableType":
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("feature", "detection", "95% interval"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("machine label")
    for label in labels:
        score = label["detection"]
        grid.add_row(
            str(label["feature"]),
            f"{score['balanced_accuracy']:.2f}" if score else "\N{EN DASH}",
            f"{score['low']:.2f} to {score['high']:.2f}" if score else "",
            visible(label["label"]),
        )
    return grid


def _how_good(labels: list[dict[str, Any]]) -> str:
    scores = [label["detection"] for label in labels if label["detection"]]
    if not scores:
        return "no label was scored, so none is known to be better than a guess"
    better = sum(score["low"] > 0.5 for score in scores)
    return (
        f"detection is the balanced accuracy on unseen texts, 0.5 what guessing gives: "
        f"{count(better)} of {counted(len(scores), 'scored label')} surely better than a guess"
    )


def _rejected(values: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    if values["answers_rejected"]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in values["answers_rejected"].items())
        lines.append(f"answers rejected: {reasons}")
    if values["rejected"]:
        numbers = ", ".join(str(each["feature"]) for each in values["rejected"])
        lines.append(f"without a usable answer: {numbers} (--again asks once more)")
    return lines


def _left_alone(values: dict[str, list[int]]) -> list[str]:
    by_person, before = values["labeled_by_a_person"], values["labeled_before"]
    lines: list[str] = []
    if by_person:
        lines.append(f"left alone: {counted(len(by_person), 'feature')} that a person labeled")
    if before:
        lines.append(
            f"left alone: {counted(len(before), 'feature')} asked about before (--again asks anew)"
        )
    return lines


def _dry_run(values: dict[str, Any]) -> list[str]:
    cost = values["estimate"]
    would = f"nothing was asked; {counted(cost['features'], 'feature')} would take "
    if cost["tokens_in"] is None:
        would += f"{counted(cost['requests'], 'text')} that the model reads in this process"
    else:
        would += (
            f"{counted(cost['requests'], 'request')}, about {count(cost['tokens_in'])} tokens in "
            f"and {count(cost['tokens_out'])} out"
        )
    lines = [
        would,
        *_left_alone(values["left_alone"]),
    ]
    if values["prompt"]:
        lines += ["", "the first question:"]
        for message in values["prompt"]:
            lines += [f"{message['role']}:", message["content"]]
    return lines
