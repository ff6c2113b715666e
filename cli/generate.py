"""The verb `generate`."""

from typing import TYPE_CHECKING, Any

from ..sae.text import visible_lines
from ..steering.config import GenerateConfig
from ..training.report.wording import count, share
from .console import Report, Terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..steering.intervention import Intervention


def run(config: GenerateConfig, terminal: Terminal) -> Report:
    """Continue prompts with and without steering, side by side, from the same random numbers.

    RUN is the folder of a run. On a terminal the texts are shown while they are written.
    """
    from rich.console import Group

    from ..steering.intervention import Intervention
    from ..steering.side_by_side import side_by_side

    with terminal.live() as show:

        def watch(rows: list[tuple[str, str, str]]) -> None:
            show(Group(*(part for row in rows for part in _pair(*row))))

        values = side_by_side(config, say=terminal.say, watch=watch)
    spec = Intervention.from_dict(values["intervention"])
    shown: list[RenderableType] = [f"steered {spec.tier}: {spec.pushes}"]
    for result in values["results"]:
        base, steered = result["base"], result["steered"]
        shown += [*_pair(result["prompt"], base["text"], steered["text"]), *_where(spec, result)]
        if steered["likely_incoherent"]:
            shown.append(
                f"likely incoherent: {share(steered['repetition'])} of the steered text repeats "
                f"itself ({share(base['repetition'])} of the base text); try less strength"
            )
    return Report(values=values, shown=shown)


def _where(spec: "Intervention", result: dict[str, Any]) -> list[str]:
    """Where a gated tier steered, and why the texts are the same if they are."""
    steered, last = result["steered"], result["prompt_tokens"] - 1
    n_steered, said = steered["steered_tokens"], list[str]()
    if spec.tier != "constant" and n_steered:
        said.append(
            f"tokens steered: {count(n_steered)}, the first is number {steered['steered_from']} "
            f"(the prompt's are 0 to {last})"
        )
    if result["base"]["tokens"] == steered["tokens"]:
        why = "the push is too weak to change a token"
        if spec.changes_nothing:
            why = "every strength is 0"
        elif not n_steered:
            why = "no feature fired"
        said.append(f"the texts are the same: {why}")
    return said


def _pair(prompt: str, base: str, steered: str) -> "list[RenderableType]":
    """A prompt, and its two continuations in columns."""
    from rich.table import Table

    grid = Table(expand=True, padding=(0, 2, 0, 0), box=None)
    grid.add_column("base", ratio=1, overflow="fold")
    grid.add_column("steered", ratio=1, overflow="fold")
    grid.add_row(visible_lines(base), visible_lines(steered))
    return ["", f"prompt: {visible_lines(prompt)}", grid]
