"""Which run to open when none is named."""

from collections.abc import Iterator
from pathlib import Path

from ...sae.common.errors import InputError
from ...sae.common.shipped import NAMES, is_here
from ...steering.features.layout import FOLDER, MANIFEST

_PLACES = ("*", "runs/*", "demo/runs/*")


def newest_run() -> Path:
    """The run in this folder, in its runs/ or in a demo's whose feature index is the newest.

    Raises:
        InputError: there is none; the message says how to get one.
    """
    runs = sorted(_runs(), key=lambda run: (run / FOLDER / MANIFEST).stat().st_mtime)
    if not runs:
        raise InputError(
            "no run with a feature index is in this folder or its runs/; name one "
            "(`sparsteer serve RUN`), build an index with `sparsteer features build RUN --cache "
            f"DIR`, or make everything with `sparsteer demo`{_shipped()}"
        )
    return runs[-1]


def _shipped() -> str:
    """The end of the sentence, where a dictionary can be opened."""
    here = next((name for name in NAMES if is_here(name)), None)
    return f"; what comes with sparsteer opens with `sparsteer serve {here}`" if here else ""


def _runs() -> Iterator[Path]:
    for place in _PLACES:
        for run in Path().glob(place):
            if (run / "sae" / "config.json").is_file() and (run / FOLDER / MANIFEST).is_file():
                yield run
