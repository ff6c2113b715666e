"""The verb `features shared`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..sae.common.wording import count
from ..steering.features.shared_config import SharedConfig
from .console import Report, Terminal, next_command

if TYPE_CHECKING:
    from rich.console import RenderableType

_NEAREST = 8


def run(config: SharedConfig, terminal: Terminal) -> Report:
    """Count the features that share the decoder direction of a given one, here and in other runs.

    RUN is the folder of a run, FEATURE the number of a latent. With wider dictionaries in --among
    it shows how a feature splits.
    """
    from ..steering.features.shared_directions import shared_directions

    values = shared_directions(config, say=terminal.say)
    shown = (
        f"features whose direction has a cosine of at least {config.least_cosine:g} with that of "
        f"feature {config.feature} of {config.run}:",
        _table(values["dictionaries"]),
        f"on average: of a feature of {config.run}, drawn at random; mean: cosine with the mean "
        "direction of those that share it",
        next_command("features", "show", config.run, str(config.feature)),
    )
    return Report(values=values, shown=shown)


def _table(dictionaries: Sequence[dict[str, Any]]) -> "RenderableType":
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("in", overflow="fold")
    for name in ("features", "share it", "on average", "mean"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("nearest (cosine)")
    for found in dictionaries:
        nearest = found["latents"] or ([found["nearest"]] if found["nearest"] else [])
        mean = found["mean_direction_cosine"]
        grid.add_row(
            found["run"],
            count(found["n_latents"]),
            count(found["count"]),
            f"{found['mean_count']:.2f}",
            "\N{EN DASH}" if mean is None else f"{mean:.2f}",
            ", ".join(f"{one['feature']} ({one['cosine']:.2f})" for one in nearest[:_NEAREST]),
        )
    return grid
