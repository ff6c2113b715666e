"""The verb `pick`."""

import dataclasses
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
    "`sparsteer pick RUN add 3 4 5 --strength -1`. --label, --note and --strength are of all the "
    "features of the command.",
    "remove": "Remove features from the picks of a run. RUN is the folder of a run, FEATURE the "
    "numbers to remove.",
    "list": "List the picked features of a run. RUN is the folder of a run.",
}
"""What each action does."""


def run(config: PickConfig, terminal: Terminal) -> Report:
    """Add, remove or list the picked features of a run.

    RUN is the folder of a run, ACTION is add, remove or list, FEATURE the numbers to add or remove:
    `sparsteer pick RUN add 3 4 5 --strength -1`. Adding a feature again changes what is given of
    it; --label, --note and --strength are of all the features of the command.
    """
    from ..steering.features.picks import FILE, change_picks
    from ..steering.features.run_folder import run_folder

    picks = change_picks(config)
    shown: tuple[RenderableType, ...] = (
        (f"{counted(len(picks.picks), 'pick')} in {run_folder(config.run) / FILE}:", _table(picks))
        if picks.picks
        else (f"nothing is picked; add a feature with `sparsteer pick {config.run} add N`",)
    )
    return Report(values=dataclasses.asdict(picks), shown=shown)


def _table(picks: "Picks") -> "RenderableType":
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("feature", justify="right")
    grid.add_column("strength", justify="right")
    grid.add_column("label")
    grid.add_column("note")
    for pick in picks.picks:
        grid.add_row(
            str(pick.feature), f"{pick.strength:+g}", visible(pick.label), visible(pick.note)
        )
    return grid
