"""What labels features: a server or a model in this process, both asked in the same way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from .evidence import Evidence


@dataclass
class Usage:
    """What was asked so far."""

    requests: int = 0
    """Answers that came, those that were rejected among them."""
    tokens_in: int = 0
    tokens_out: int = 0
    """As the server counts them; 0 where it does not say."""
    repeated: int = 0
    """Requests that were made again because the server failed or was busy."""
    rejected: dict[str, int] = field(default_factory=dict[str, int])
    """Answers that could not be used, by the reason."""

    def reject(self, reason: str) -> None:
        """Count an answer that could not be used."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1


@runtime_checkable
class Labeler(Protocol):
    """A language model that is asked for labels and about labels."""

    name: str
    """Of the model."""
    address: str
    """Where it is asked: the server's address, or `local`."""
    usage: Usage

    def label(self, evidence: Evidence) -> str:
        """A label.

        Raises:
            BadAnswer: what it answers is no label, also when it is asked again.
        """
        ...

    def fitting(self, label: str, texts: Sequence[str]) -> set[int]:
        """The numbers, from 1, of the texts that the label fits.

        Raises:
            BadAnswer: what it answers is no list of numbers, also when it is asked again.
        """
        ...
