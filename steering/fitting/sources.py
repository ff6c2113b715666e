"""The texts that a method is fitted to, from files."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...sae.common.errors import InputError
from ...training.data.row_files.opening import open_rows
from ..features.text_lists import read_text_list

SourceKind = Literal["sets", "pairs", "scored", "texts", "observable", "models", "responses"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Texts and what is known of them."""

    kind: SourceKind
    """`sets` of positive and negative texts; `pairs` of one and the other; `scored` texts; `texts`
    of which nothing is known; `observable`, texts or pairs of texts at which its gradient is taken,
    or none; `models`, what both read; `responses`, positive ones behind their prompts, and negative
    texts."""
    texts: tuple[str, ...]
    """Of pairs those of the first, the positive before the negative, then those of the second."""
    scores: tuple[float, ...]
    """Of sets and pairs 1 for a positive text and 0 for a negative one; of `texts` nothing."""
    groups: tuple[int, ...]
    """Texts of one group belong together: a pair; scored texts of equal `group`; else each alone.
    They are on one side when some are held out."""
    answers: tuple[str, ...] = ()
    """What stands behind each text, "" where nothing does: of `models` the right continuation, of
    `responses` the positive response. Empty where no text has any."""

    @property
    def whole_texts(self) -> tuple[str, ...]:
        """The texts, each with what stands behind it."""
        if not self.answers:
            return self.texts
        return tuple(text + answer for text, answer in zip(self.texts, self.answers, strict=True))

    @property
    def is_positive(self) -> tuple[bool, ...]:
        """Which texts of sets or pairs are positive; of scored ones those above the mean."""
        mean = math.fsum(self.scores) / max(1, len(self.scores))
        return tuple(score > mean for score in self.scores)


def sets_of(positive: Sequence[str], negative: Sequence[str]) -> Source:
    """Two sets; a text that is in one of them twice counts once.

    Raises:
        InputError: a set is empty, or a text is in both.
    """
    sides = [list(dict.fromkeys(texts)) for texts in (positive, negative)]
    for name, texts in zip(("positive", "negative"), sides, strict=True):
        if not texts:
            raise InputError(f"{name} has no text; give at least one", field=name)
    if both := set(sides[0]) & set(sides[1]):
        text = min(both)
        raise InputError(
            f"the text {_beginning(text)} is both in the positive and in the negative texts "
            f"(and {len(both) - 1} more are); take it out of one of the files"
        )
    texts = (*sides[0], *sides[1])
    scores = (1.0,) * len(sides[0]) + (0.0,) * len(sides[1])
    return Source(kind="sets", texts=texts, scores=scores, groups=tuple(range(len(texts))))


def pairs_of(pairs: Sequence[tuple[str, str]]) -> Source:
    """Pairs of a positive and a negative text; a pair that comes twice counts once.

    Raises:
        InputError: there is no pair, or both texts of one are the same.
    """
    different = list(dict.fromkeys(pairs))
    if not different:
        raise InputError("pairs has no pair; give at least one", field="pairs")
    for number, (one, other) in enumerate(different, start=1):
        if one == other:
            raise InputError(
                f"pair {number} has the same text twice, {_beginning(one)}; mend it or leave it out"
            )
    n_pairs = len(different)
    return Source(
        kind="pairs",
        texts=tuple(text for pair in different for text in pair),
        scores=(1.0, 0.0) * n_pairs,
        groups=tuple(number for number in range(n_pairs) for _ in "+-"),
    )


def scored_texts(
    texts: Sequence[str], scores: Sequence[float], groups: Sequence[object] | None = None
) -> Source:
    """Texts with a score each, and with a group if they are to be compared within groups.

    Raises:
        InputError: there are fewer than two texts, a score is not finite, or all are the same.
    """
    if len(texts) < 2:
        raise InputError(f"scored has {len(texts)} texts; give at least two", field="scored")
    for number, score in enumerate(scores, start=1):
        if not math.isfinite(score):
            raise InputError(f"the score of text {number} is {score}; give a finite number")
    if len(set(scores)) == 1:
        raise InputError(
            f"all scores are {scores[0]:g}, so nothing goes with them; give texts whose scores "
            "differ",
            field="scored",
        )
    return Source(
        kind="scored",
        texts=tuple(texts),
        scores=tuple(map(float, scores)),
        groups=_numbered(len(texts), groups),
    )


def plain_texts(texts: Sequence[str], groups: Sequence[object] | None = None) -> Source:
    """Texts of which nothing is known, but perhaps which belong together; without groups a text
    that comes twice counts once."""
    if groups is None:
        texts = list(dict.fromkeys(texts))
    return Source(kind="texts", texts=tuple(texts), scores=(), groups=_numbered(len(texts), groups))


def read_sets(positive: str, negative: str, text_field: str | None = None) -> Source:
    """Two sets from files, as `features find` reads them.

    Raises:
        InputError: a file is missing or broken, or as `sets_of`.
    """
    return sets_of(
        read_text_list(positive, text_field, what="--positive"),
        read_text_list(negative, text_field, what="--negative"),
    )


def read_pairs(path: str) -> Source:
    """Pairs from rows with `positive` and `negative`, and with `prompt` where both begin with it.

    Raises:
        InputError: the file is missing or broken, or a row is not like that; or as `pairs_of`.
    """
    pairs: list[tuple[str, str]] = []
    for place, row in _rows(path, "--pairs"):
        prompt = _text(row, "prompt", place) if row.get("prompt") is not None else ""
        one, other = (_text(row, name, place) for name in ("positive", "negative"))
        pairs.append((prompt + one, prompt + other))
    return pairs_of(pairs)


def read_scored(
    path: str, text_field: str | None = None, *, with_scores: bool = True, grouped: bool = False
) -> Source:
    """Texts with scores from rows with `text` and `score`, and `group` if they are grouped.

    Without scores they are plain texts, which may be lines of a text file.

    Raises:
        InputError: the file is missing or broken, or a row is not like that; or as `scored_texts`.
    """
    if not with_scores and not grouped:
        return read_texts(path, text_field, what="--scored")
    texts: list[str] = []
    scores: list[float] = []
    groups: list[object] = []
    for place, row in _rows(path, "--scored"):
        texts.append(_text(row, text_field or "text", place))
        if with_scores:
            scores.append(_score(row, place))
        if grouped:
            group: object = row.get("group")
            if not isinstance(group, str | int):
                raise InputError(
                    f"{place}: group is {group!r}; give each row a text or a whole number as its "
                    "group, or leave --center out"
                )
            groups.append(group)
    if not with_scores:
        return plain_texts(texts, groups)
    return scored_texts(texts, scores, groups if grouped else None)


def read_texts(path: str, text_field: str | None = None, *, what: str) -> Source:
    """Texts alone; `what` is the option that named the file.

    Raises:
        InputError: the file is missing or broken, or has no text.
    """
    return plain_texts(read_text_list(path, text_field, what=what))


def read_observable(texts: str | None, pairs: str | None, text_field: str | None = None) -> Source:
    """Beginnings of texts, or pairs of them, or none.

    Raises:
        InputError: a file is missing or broken, both are given, or as `read_pairs`.
    """
    if texts is not None and pairs is not None:
        raise InputError("texts cannot stand beside --pairs; give one of them", field="texts")
    if pairs is not None:
        return replace(read_pairs(pairs), kind="observable", scores=())
    if texts is None:
        return Source(kind="observable", texts=(), scores=(), groups=())
    return replace(read_texts(texts, text_field, what="--texts"), kind="observable")


def read_models_texts(
    path: str, text_field: str | None = None, *, with_answers: bool = False
) -> Source:
    """Texts that two models read; with answers from rows with `text` and `answer`.

    Raises:
        InputError: the file is missing or broken, or has not what is needed.
    """
    if not with_answers:
        return replace(read_texts(path, text_field, what="--texts"), kind="models")
    rows = [
        (_text(row, text_field or "text", place), _text(row, "answer", place))
        for place, row in _rows(path, "--texts")
    ]
    texts, answers = zip(*dict.fromkeys(rows), strict=True) if rows else ((), ())
    if not texts:
        raise InputError("texts has no row; give at least one", field="texts")
    return Source(
        kind="models", texts=texts, scores=(), groups=tuple(range(len(texts))), answers=answers
    )


def read_responses(positive: str, negative: str | None, text_field: str | None = None) -> Source:
    """Positive responses from rows with `response`, and `prompt` if there is one, and texts that
    have not what the responses have.

    Raises:
        InputError: a file is missing or broken, or a row is not like that.
    """
    rows = [
        (
            _text(row, "prompt", place) if row.get("prompt") else "",
            _text(row, "response", place),
        )
        for place, row in _rows(positive, "--positive")
    ]
    rows = list(dict.fromkeys(rows))
    if not rows:
        raise InputError("positive has no row; give at least one", field="positive")
    others = [] if negative is None else read_text_list(negative, text_field, what="--negative")
    others = list(dict.fromkeys(others))
    return Source(
        kind="responses",
        texts=(*(prompt for prompt, _ in rows), *others),
        scores=(1.0,) * len(rows) + (0.0,) * len(others),
        groups=tuple(range(len(rows) + len(others))),
        answers=(*(response for _, response in rows), *("" for _ in others)),
    )


def _numbered(n_texts: int, groups: Sequence[object] | None) -> tuple[int, ...]:
    """The groups as numbers from 0; each text is one of its own if there are none."""
    if groups is None:
        return tuple(range(n_texts))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    return tuple(numbers[name] for name in groups)


def _score(row: Mapping[str, Any], place: str) -> float:
    score: object = row.get("score")
    if not isinstance(score, int | float) or isinstance(score, bool):
        raise InputError(f"{place}: score is {score!r}; give each row a number as its score")
    return float(score)


def _rows(path: str, what: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a file, each with its place for a message."""
    rows = open_rows(Path(path), what)
    if rows.plain_text:
        raise InputError(
            f"{path} has lines of text where rows with fields are needed; give {what} a .jsonl file"
        )
    return rows.placed_rows()


def _text(row: Mapping[str, Any], name: str, place: str) -> str:
    value: object = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{place}: {name} is {value!r}; give each row a text as its {name}")
    return value


def _beginning(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
