"""The training of the autoencoders of a grid: every batch is read once and used by all."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial

from .loop import Batch, TrainingRun, fit, read_batches
from .non_finite import NonFiniteLoss
from .runtime.stopping import AgreedStop, Interrupted, StopRequest

GridReport = Callable[[str, int, int, dict[str, float]], None]
"""Told after logged steps: the run's folder, steps done, steps in all, the newest figures."""


class SharedBatches:
    """Batches that are read once and given to every run that stands at their step.

    The runs take turns, the ones furthest behind first; so only the newest batch is kept.

    Attributes:
        error: why the next batch cannot be read; raised to every run that asks for it.
    """

    def __init__(self, batches: Iterator[Batch], next_step: int) -> None:
        """`next_step`: the steps that a run has done when it takes the first of the batches."""
        self._batches = batches
        self._next_step = next_step
        self._newest: Batch | None = None
        self.error: Exception | None = None

    def for_run(self, run: TrainingRun) -> Iterator[Batch]:
        """The batches of a run, from the step at which it stands."""
        while True:
            yield self._after_steps(run.trainer.steps_done)

    def _after_steps(self, step: int) -> Batch:
        if self.error is not None:
            raise self.error
        if step == self._next_step:
            try:
                self._newest = next(self._batches)
            except Exception as error:
                self.error = error
                raise
            self._next_step += 1
        # Else another run at this step was first. The one furthest behind always goes first.
        assert self._newest is not None and step == self._next_step - 1
        return self._newest


def fit_together(
    runs: Sequence[TrainingRun], *, stop: StopRequest, report: GridReport
) -> dict[TrainingRun, NonFiniteLoss]:
    """Train all runs, each as `fit` trains one, from the same batches.

    The runs have the same data, batch size and schedule. A run that stands further on than another,
    because it was resumed from a later checkpoint, waits until the other is there. One whose loss
    is not finite ends; the others go on.

    Returns:
        The runs that ended early, and why.

    Raises:
        Interrupted: `stop` was set; the runs furthest behind, which all stand at the same step, are
            saved there. A run that still waited for them lies in its last checkpoint.
    """
    agreed = AgreedStop(stop)
    failures: dict[TrainingRun, NonFiniteLoss] = {}
    sites = list(dict.fromkeys(site for run in runs for site in run.sites))
    first = min(runs, key=lambda run: run.trainer.steps_done)
    with closing(read_batches(first.data, sites, first.trainer, agreed)) as batches:
        shared = SharedBatches(batches, first.trainer.steps_done)
        loops = {
            run: fit(
                run,
                shared.for_run(run),
                stop=agreed,
                report=partial(report, run.config.out),
            )
            for run in runs
        }
        while loops:
            step = min(run.trainer.steps_done for run in loops)
            end_of_all: BaseException | None = None
            for run in [run for run in loops if run.trainer.steps_done == step]:
                try:
                    next(loops[run])
                except StopIteration:
                    del loops[run]
                except NonFiniteLoss as error:
                    failures[run] = error
                    del loops[run]
                except (Exception, Interrupted) as error:
                    if shared.error is None and not isinstance(error, Interrupted):
                        raise
                    # The other runs at this step end in the same way, and save first.
                    end_of_all = end_of_all or error
            if end_of_all is not None:
                raise end_of_all
    return failures
