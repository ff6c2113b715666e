"""Rows by the first letter of their token, and a linear probe for it."""

import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ....sae.common.errors import InputError
from ...data.cache.held_out_rows import HeldOutRows

LETTERS = "abcdefghijklmnopqrstuvwxyz"

_ROWS_OF_TOKEN = 20
"""Most rows of one token, so that the commonest words do not decide."""
_MOST_ROWS = 30_000
_STEPS = 300
_STRENGTH = 0.1
"""C of scikit-learn's logistic regression, the columns of large deviation being scaled down."""


def first_letters(names: list[str]) -> Int[Tensor, "V"]:
    """The first letter of each token that begins a word, from 0 for a; -1 of all other tokens.

    Args:
        names: of the tokens, as `tokenizer.convert_ids_to_tokens` gives them. A word begins where a
            name begins with the sign for a space (of byte-level BPE or SentencePiece) and goes on
            with two letters of English or more.
    """
    found = torch.full((len(names),), -1)
    for token, name in enumerate(names):
        word = name[1:]
        if name[:1] in ("\u0120", "\u2581") and len(word) > 1 and word.isascii() and word.isalpha():
            found[token] = LETTERS.index(word[0].lower())
    return found


@dataclass(frozen=True)
class LetterRows:
    """Rows whose token begins a word, on two sides that share no token."""

    rows: Float[Tensor, "N D"]
    """Raw, float32."""
    token: Int[Tensor, "N"]
    letter: Int[Tensor, "N"]
    test: Bool[Tensor, "N"]
    """Which rows are for testing."""


def letter_rows(rows: HeldOutRows, letters_V: Int[Tensor, "V"], *, seed: int) -> LetterRows:
    """The rows of tokens that begin a word, at most 20 of each token, 30,000 in all.

    The tokens are parted into halves at random, so that a probe cannot know a token's letter from
    the token.
    """
    chances = np.random.default_rng(seed)
    usable = (rows.kept & (letters_V[rows.tokens] >= 0)).nonzero()[:, 0].numpy()
    usable = chances.permutation(usable)
    tokens = rows.tokens.numpy()[usable]
    order = np.argsort(tokens, kind="stable")
    _, first, counts = np.unique(tokens[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(first, counts)
    chosen = usable[order[rank < _ROWS_OF_TOKEN]]
    chosen = np.sort(chances.permutation(chosen)[:_MOST_ROWS])
    side_V = torch.as_tensor(chances.permutation(len(letters_V)) % 2 == 1)
    index = torch.as_tensor(chosen)
    token_N = rows.tokens[index]
    return LetterRows(
        rows.stored.rows(chosen).restored(), token_N, letters_V[token_N], side_V[token_N]
    )


@dataclass(frozen=True)
class LetterProbe:
    """A multinomial logistic regression of the first letter."""

    directions: Float[Tensor, "26 D"]
    """Unit vectors: where a row must move for a letter against the mean of all."""
    predicted: Int[Tensor, "N"]
    """The letter of each row, as the probe has it; -1 of a probe that knows none."""
    f1: Float[Tensor, "26"]
    """On the rows for testing; NaN of a letter without rows on either side."""


def letter_probe(given: LetterRows) -> LetterProbe:
    """Fit the probe on the rows for fitting; with fewer than two letters there it knows none.

    Raises:
        InputError: scikit-learn is not installed.
    """
    fit_N = ~given.test
    known = np.unique(given.letter[fit_N].numpy())
    f1 = torch.full((len(LETTERS),), torch.nan, dtype=torch.float64)
    directions = torch.zeros(len(LETTERS), given.rows.shape[1])
    if len(known) < 2:
        return LetterProbe(directions, torch.full_like(given.letter, -1), f1)
    mean_D, scale_D = given.rows[fit_N].mean(0), given.rows[fit_N].std(0)
    # Columns that vary less than most are not blown up: other tokens may vary in them.
    scale_D = scale_D.clamp(min=float(scale_D.mean()) or 1.0)
    standard_ND = ((given.rows - mean_D) / scale_D).numpy()
    model = _logistic(standard_ND[fit_N.numpy()], given.letter[fit_N].numpy())
    weights_KD = torch.as_tensor(model.coef_).float()
    if len(known) == 2:  # scikit-learn then has one row of weights
        weights_KD = torch.cat([-weights_KD, weights_KD])
    directions[torch.as_tensor(known)] = (weights_KD - weights_KD.mean(0)) / scale_D
    predicted_N = torch.as_tensor(model.predict(standard_ND))
    for letter in known.tolist():
        is_letter_N = given.letter[given.test] == letter
        said_N = predicted_N[given.test] == letter
        if is_letter_N.any():
            f1[letter] = f1_of(said_N, is_letter_N)
    return LetterProbe(torch.nn.functional.normalize(directions, dim=-1), predicted_N, f1)


def f1_of(said_N: Tensor, true_N: Tensor) -> float:
    """The harmonic mean of precision and recall of a yes-or-no answer; 0 if neither is ever yes."""
    both = int((said_N & true_N).sum())
    return 2 * both / max(int(said_N.sum()) + int(true_N.sum()), 1)


def _logistic(x: np.ndarray, y: np.ndarray) -> Any:
    """A fitted logistic regression of scikit-learn, which has no types."""
    try:
        linear: Any = import_module("sklearn.linear_model")
    except ModuleNotFoundError:
        raise InputError(
            "probes of first letters need scikit-learn, which is not installed; pip install "
            "'sparsteer[eval]'"
        ) from None
    model = linear.LogisticRegression(C=_STRENGTH, max_iter=_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that ended before the last digits
        return model.fit(x, y)
