"""What is due with a step: logging, evaluation, a checkpoint; by steps, or by the clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .distributed.collectives import Distributed
from .trainer_config import TrainerConfig

Work = Literal["log", "evaluate", "save"]


@dataclass
class _Interval:
    """Steps between two turns, or, where they are given, seconds."""

    steps: int
    seconds: float | None
    last: float
    """When the last turn ended, on the clock."""

    def is_due(self, step: int, now: float) -> bool:
        if self.seconds is None:
            return step % self.steps == 0
        return now - self.last >= self.seconds


class Intervals:
    """Which work is due with each step; alike on all ranks, as rank 0's clock decides.

    Seconds count from the making of this object, then from the end of the last turn, so that work
    which takes longer than its interval still leaves steps between. The clock decides when files
    are written and read, never what a step computes.
    """

    def __init__(
        self,
        config: TrainerConfig,
        dist: Distributed,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` gives seconds that never fall."""
        self._dist = dist
        self._clock = clock
        now = clock()
        self._intervals: dict[Work, _Interval] = {
            "log": _Interval(config.log_every, config.log_seconds, now),
            "evaluate": _Interval(config.eval_every, _seconds(config.eval_minutes), now),
            "save": _Interval(config.checkpoint_every, _seconds(config.checkpoint_minutes), now),
        }
        self._by_clock = any(one.seconds is not None for one in self._intervals.values())

    def due(self, step: int) -> set[Work]:
        """What is due when so many steps are done; every rank calls this before the last of them,
        so that a step can know whether it will be logged."""
        now = self._clock()
        due: set[Work] = {name for name, one in self._intervals.items() if one.is_due(step, now)}
        return self._dist.broadcast_object(due) if self._by_clock else due

    def was_done(self, work: Work) -> None:
        """Begin the next interval of that work."""
        self._intervals[work].last = self._clock()


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else 60 * minutes
