"""Asking a training to stop: the step in hand is finished and saved before the end."""

from collections.abc import Generator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and was saved; the message says where it goes on."""


class StopRequest:
    """Asks the training that it is given to, to finish the step in hand, save it and end.

    Any thread may `set` it, and so may a signal handler: training installs none. The command's
    handler for Ctrl-C does it while `is_watched`.

    Attributes:
        is_watched: whether training is between its first and its last step, where a request leads
            to a checkpoint at the end of the step in hand.
    """

    def __init__(self) -> None:
        self.is_watched = False
        self._is_set = False

    def set(self) -> None:
        """Ask; before the first step, training ends after it."""
        self._is_set = True

    def is_set(self) -> bool:
        """Whether somebody has asked."""
        return self._is_set

    @contextmanager
    def watched(self) -> Generator[None]:
        """For training: it looks at the request after every step within the context."""
        self.is_watched = True
        try:
            yield
        finally:
            self.is_watched = False


class AgreedStop:
    """Whether to stop, as the processes of a training have agreed when they read a batch.

    They ask each other once a step, in the collective in which they tell whether the batch could be
    read, so that all stop after the same step.

    Attributes:
        request: this process's.
        agreed: whether that of any process was set.
    """

    def __init__(self, request: StopRequest) -> None:
        self.request = request
        self.agreed = False
