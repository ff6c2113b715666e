"""The verb `pick`."""

from typing import TYPE_CHECKING

from ..sae.common.text import visible
from ..sae.common.wording import counted
from ..steering.features.config import PickConfig
from .console import Report, Terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..steering.features.picks import Picks

ACTION_HELP: dict[str, str] = {
    "add": "Add features to the picks of a run, or change what is given of those that are picked. "
    "RUN is the folder of a run, FEATURE the numbers: "
    "`sparsteer pick RUN add 3 4 5 --strength -1`. What is given is of all the features of the "
    "command.",
    "remove": "Remove features from the picks of a run. RUN is the folder of a run, FEATURE the "
    "numbers to remove.",
    "list": "List the picked features of a run. RUN is the folder of a run.",
    "undo": "Undo the last change of the picks of a run, whoever made it: this command, the "
    "browser, or an edit of picks.json by hand. RUN is the folder of a run. Given again, it undoes "
    "the change before.",
}
"""What each action does."""


def run(config: PickConfig, terminal: Terminal) -> Report:
    """Add, remove or list the picked features of a run, or undo the last change of them.

    RUN is the folder of a run, ACTION is add, remove, list or undo, FEATURE the numbers to add or
    remove: `sparsteer pick RUN add 3 4 5 --strength -1`. Adding a feature again changes what is
    given of it; what is given is of all the features of the command. A rejected feature is
    remembered, and does not steer.
    """
    from ..steering.features.picking import change_picks
    from ..steering.features.picks import FILE
    from ..steering.features.run_folder import run_folder

    picks = change_picks(config)
    shown: tuple[RenderableType, ...] = (
        (f"{counted(len(picks.picks), 'pick')} in {run_folder(config.run) / FILE}:", _table(picks))
        if picks.picks
        else (f"nothing is picked; add a feature with `sparsteer pick {config.run} add N`",)
    )
    values = {"sae": picks.sae, "picks": [pick.to_dict() for pick in picks.picks]}
    return Report(values=values, shown=shown)


def _table(picks: "Picks") -> "RenderableType":
    from rich.table import Table

    judged = any(pick.starred or pick.verdict or pick.confidence for pick in picks.picks)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("feature", justify="right")
    grid.add_column("strength", justify="right")
    if judged:
        for name in ("star", "verdict", "confidence"):
            grid.add_column(name)
    grid.add_column("label")
    grid.add_column("note")
    for pick in picks.picks:
        confidence = "" if pick.confidence is None else str(pick.confidence)
        judgment = ("*" if pick.starred else "", pick.verdict, confidence)
        by_machine = " (by a machine)" if pick.label and pick.label_source == "machine" else ""
        grid.add_row(
            str(pick.feature),
            f"{pick.strength:+g}",
            *(judgment if judged else ()),
            visible(pick.label) + by_machine,
            visible(pick.note),
        )
    return grid
