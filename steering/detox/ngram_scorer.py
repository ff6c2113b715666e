"""How toxic texts are, by a linear classifier of words and parts of words that ships with weights.

A text becomes the set of its words, pairs of neighboring words and runs of three to five characters
of a word, each hashed to one of 2^18 numbers; its score is the logistic function of a bias plus the
sum of their weights divided by the square root of how many there are. It was fitted on other labels
and partly other texts than alt-profanity-check was; `ngrams/README.md` says on which, and how well
it does. It sees no meaning: what is insulting without a telling word is missed.
"""

import re
import unicodedata
import zlib
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

WEIGHTS_FILE = Path(__file__).parent / "ngrams" / "weights.safetensors"
"""The weights that ship; `benchmarks/fit_toxicity_scorer.py` makes them."""

BITS = 18
_SHORTEST, _LONGEST = 3, 5
_TOKEN = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*|[^\w\s]")


class NgramClassifier:
    """A linear classifier of hashed n-grams.

    Attributes:
        weights: of each number that an n-gram is hashed to, [2^18].  bias: of every text.
    """

    def __init__(self, weights: Float[np.ndarray, "H"], bias: float) -> None:
        """Take the weights, in any float dtype, and the bias."""
        self.weights = weights.astype(np.float64)
        self.bias = bias

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """The probability that each text is toxic, from 0 to 1, each text by itself."""
        return [self._probability(ngram_numbers(text)) for text in texts]

    def _probability(self, numbers_N: Int[np.ndarray, "N"]) -> float:
        logit = self.bias + float(self.weights[numbers_N].sum()) / max(1, len(numbers_N)) ** 0.5
        return float(1 / (1 + np.exp(-np.clip(logit, -700, 700))))

    def save(self, path: Path) -> None:
        """Write weights (float16) and bias as safetensors."""
        tensors = {
            "weights": self.weights.astype(np.float16),
            "bias": np.array([self.bias], dtype=np.float32),
        }
        _safetensors().save_file(tensors, path)

    @classmethod
    def load(cls, path: Path) -> "NgramClassifier":
        """Read what `save` wrote."""
        tensors = _safetensors().load_file(path)
        return cls(tensors["weights"], float(tensors["bias"][0]))


def _safetensors() -> Any:
    return import_module("safetensors.numpy")  # partly without types


def ngram_toxicity(texts: Sequence[str]) -> list[float]:
    """The probability that each text is toxic, by the classifier that ships; 0 to 1."""
    return shipped_classifier()(texts)


@cache
def shipped_classifier() -> NgramClassifier:
    """The classifier whose weights ship, read once."""
    return NgramClassifier.load(WEIGHTS_FILE)


def ngram_numbers(text: str) -> Int[np.ndarray, "N"]:
    """The numbers of a text's n-grams, each once, rising.

    Case, compatible forms of characters (NFKC) and white space do not matter.
    """
    words = _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())
    found = {f"w{word}" for word in words}
    found |= {f"w{word} {following}" for word, following in pairwise(words)}
    for word in set(words):
        framed = f"<{word}>"
        found |= {
            f"c{framed[start : start + length]}"
            for length in range(_SHORTEST, _LONGEST + 1)
            for start in range(len(framed) - length + 1)
        }
    # Half of a surrogate pair, which is no character, is hashed as any other.
    hashed = {zlib.crc32(gram.encode("utf-8", "surrogatepass")) % (1 << BITS) for gram in found}
    return np.array(sorted(hashed), dtype=np.int64)
