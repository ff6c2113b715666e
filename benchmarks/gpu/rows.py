"""The lines that a part of the check writes as it goes, so that a part cut short keeps them."""

import json
import math
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import OutOfMemoryError

Status = Literal["ok", "wrong", "failed", "not there"]


class NotThere(Exception):
    """What a case needs is not on this machine; the message says what."""


class Judged:
    """The figures of one case, and those of them that are not as they must be.

    Attributes:
        figures: by name.  wrong: sentences.
    """

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.wrong: list[str] = []

    def note(self, **figures: object) -> "Judged":
        """Figures that may be anything."""
        self.figures |= figures
        return self

    def at_most(self, name: str, value: float, limit: float) -> None:
        """A figure with its limit; NaN is above every limit."""
        self.figures[name] = value
        if not value <= limit:
            self.wrong.append(f"{name} is {value:.3g}, above {limit:.3g}")

    def holds(self, name: str, value: bool) -> None:
        """Something that must be so."""
        self.figures[name] = value
        if not value:
            self.wrong.append(f"not so: {name}")


class Rows:
    """Writes a JSON line a case to a file, at once.

    Attributes:
        n_bad: cases that are wrong or failed so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_bad = 0

    def run(self, case: str, measure: Callable[[], Judged]) -> None:
        """Measure a case; whatever it raises becomes its line, and the next case runs."""
        started = time.perf_counter()
        status: Status = "ok"
        figures: dict[str, Any] = {}
        try:
            found = measure()
            figures, why = found.figures, "; ".join(found.wrong)
            if found.wrong:
                status = "wrong"
        except NotThere as missing:
            status, why = "not there", str(missing)
        except OutOfMemoryError as error:
            status, why = "not there", f"memory: {_first_line(error)}"
        except Exception as error:
            traceback.print_exc(limit=6)
            status, why = "failed", f"{type(error).__name__}: {_first_line(error)}"
        self.n_bad += status in ("wrong", "failed")
        seconds = round(time.perf_counter() - started, 2)
        row = {"case": case, "status": status, "why": why, "seconds": seconds, "figures": figures}
        line = json.dumps(row, default=str)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a part so far; none if it wrote none. A line cut in the middle is left out."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def shown(value: object) -> str:
    """A figure as a cell of a table."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        if math.isfinite(value) and (abs(value) >= 100 or value.is_integer()):
            return f"{value:,.0f}"
        return f"{value:.3g}"
    return str(value).replace("|", "/").replace("\n", " ")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
