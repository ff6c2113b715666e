"""The verb `generate`."""

from typing import TYPE_CHECKING, Any

from ..sae.common.text import visible_lines
from ..sae.common.wording import count, percent
from ..steering.config import GenerateConfig
from .console import Report, Terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..steering.interventions.intervention import Intervention


def run(config: GenerateConfig, terminal: Terminal) -> Report:
    """Continue prompts with and without steering, side by side, from the same random numbers.

    RUN is the folder of a run; an --intervention without features needs --model alone. With
    --interventions NAME=PATH, given several times, a text is written under each. On a terminal the
    texts are shown while they are written.
    """
    from rich.console import Group

    from ..steering.interventions.intervention import Intervention
    from ..steering.side_by_side import side_by_side

    with terminal.live() as show:

        def watch(rows: list[tuple[str, dict[str, str]]]) -> None:
            show(Group(*(part for row in rows for part in _columns(*row))))

        values = side_by_side(config, say=terminal.say, watch=watch)
    every = values.get("interventions")
    specs = {
        name: Intervention.from_dict(spec)
        for name, spec in (every or {"steered": values["intervention"]}).items()
    }
    one = next(iter(specs.values()))
    tier = "under each tier" if every else one.tier
    shown: list[RenderableType] = [f"steered {tier}: {one.pushes}"]
    if config.interventions:
        shown = [f"{name}: steered {spec.tier}: {spec.pushes}" for name, spec in specs.items()]
    for result in values["results"]:
        base = result["base"]
        steered = result["steered"] if every else {"steered": result["steered"]}
        texts = {"base": base["text"]} | {name: text["text"] for name, text in steered.items()}
        shown += _columns(result["prompt"], texts)
        for name, text in steered.items():
            said = _about(specs[name], base, text, result["prompt_tokens"])
            shown += [f"{name}: {line}" if every else line for line in said]
    return Report(values=values, shown=shown)


def _about(
    spec: "Intervention", base: dict[str, Any], steered: dict[str, Any], prompt_tokens: int
) -> list[str]:
    """Where a gate let it steer, why the texts are the same if they are, and whether the steered
    one is likely broken."""
    n_steered, said = steered["steered_tokens"], list[str]()
    somewhere = (
        spec.tier != "constant"
        or spec.positions != "all"
        or any(edit.gate is not None for edit in spec.edits)
    )
    if somewhere and n_steered:
        said.append(
            f"tokens steered: {count(n_steered)}, the first is number {steered['steered_from']} "
            f"(the prompt's are 0 to {prompt_tokens - 1})"
        )
    if base["tokens"] == steered["tokens"]:
        why = "the push is too weak to change a token"
        if spec.changes_nothing:
            why = "every strength is 0"
        elif not n_steered:
            why = "the gate was open at no token"
        said.append(f"the texts are the same: {why}")
    if steered["likely_incoherent"]:
        said.append(
            f"likely incoherent: {percent(steered['repetition'])} of the steered text repeats "
            f"itself ({percent(base['repetition'])} of the base text); try less strength"
        )
    return said


def _columns(prompt: str, texts: dict[str, str]) -> "list[RenderableType]":
    """A prompt, and its continuations in columns by their names."""
    from rich.table import Table

    grid = Table(expand=True, padding=(0, 2, 0, 0), box=None)
    for name in texts:
        grid.add_column(name, ratio=1, overflow="fold")
    grid.add_row(*map(visible_lines, texts.values()))
    return ["", f"prompt: {visible_lines(prompt)}", grid]
