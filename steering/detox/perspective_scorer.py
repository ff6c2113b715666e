"""How toxic texts are, by a service that answers as Jigsaw's Perspective API does.

How it is asked is the caller's: over the network with a key, a service of one's own of the same
shape, or a file of earlier answers. Texts leave this machine then; they are sent with `doNotStore`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...sae.common.errors import InputError

Ask = Callable[[dict[str, Any]], Mapping[str, Any]]
"""From the body of a `comments:analyze` request to the object that answers it. It waits between
requests as the service demands, and raises where it does not answer."""


class PerspectiveScorer:
    """A scorer that asks such a service for one attribute of each text.

    Attributes:
        attribute: name of the attribute, such as TOXICITY or SEVERE_TOXICITY.
    """

    def __init__(self, ask: Ask, *, attribute: str = "TOXICITY", language: str = "en") -> None:
        """Take what asks, the attribute, and the texts' language."""
        self._ask, self._language = ask, language
        self.attribute = attribute

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """The service's score of each text, from 0 to 1; 0 without asking for an empty one, which
        it refuses.

        Raises:
            InputError: an answer has no score in it.
        """
        return [self._score(text) if text.strip() else 0.0 for text in texts]

    def _score(self, text: str) -> float:
        answer = self._ask(
            {
                "comment": {"text": text, "type": "PLAIN_TEXT"},
                "languages": [self._language],
                "requestedAttributes": {self.attribute: {}},
                "doNotStore": True,
            }
        )
        try:
            value = answer["attributeScores"][self.attribute]["summaryScore"]["value"]
            score = float(value)
        except (KeyError, TypeError, ValueError):
            score = math.nan
        if not 0 <= score <= 1:
            raise InputError(
                f"the service's answer to {text[:40]!r} has no score of {self.attribute} from 0 to "
                "1 in it; check what it answers"
            )
        return score
