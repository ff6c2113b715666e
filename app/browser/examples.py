"""Examples as markup: heat on the tokens where a feature fires, and nothing around the others.

A window is some thirty tokens of which few are active. So the runs between them are plain text,
which keeps a page with hundreds of examples small and quick. Text is escaped, and what is not
plainly visible is written out. The pages and the export that opens without a server both use this.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from ...sae.common.text import visible
from ...sae.common.wording import count
from ...steering.features.feature import Example
from .numbers import figures, rate

LEVELS = 10
"""Shades of heat."""

_NEAR_BEFORE, _NEAR_AFTER = 10, 4
"""Tokens around the peak that the short context shows."""

_SNIPPET_BEFORE, _SNIPPET_AFTER = 5, 5
"""And a line of a list."""

_LONG = 24
"""Characters of a token beyond which a line may end inside it."""


@dataclass(frozen=True)
class Piece:
    """One or more tokens in a row that are shown alike."""

    text: str
    activation: float
    """0 where the feature does not fire."""
    peak: bool
    """Whether it is the token that the example is about."""


def pieces(texts: Iterable[str], activations: Iterable[float], peak: int | None) -> list[Piece]:
    """The tokens with those joined that have no text of their own.

    A character made of several tokens stands at the first of them; what the others have counts
    there.

    Args:
        texts, activations: of the tokens.
        peak: which of them the example is about, from 0; None for none.
    """
    found: list[Piece] = []
    for place, (text, activation) in enumerate(zip(texts, activations, strict=True)):
        piece = Piece(text, activation, place == peak)
        if not text and found:
            last = found.pop()
            piece = Piece(last.text, max(last.activation, activation), last.peak or piece.peak)
        found.append(piece)
    return found


def tokens_markup(all_pieces: list[Piece], largest: float, *, starts_document: bool) -> Markup:
    """The tokens of a window.

    An `i` of class h1 to h10 is a token where the feature fires, by share of `largest`, with its
    activation as title; class peak is the token that the example is about. What is far from that is
    in spans of class far, which the short context hides.

    Args:
        all_pieces: of the window.
        largest: the feature's own largest activation.
        starts_document: False puts an ellipsis in front.
    """
    peak = next((place for place, piece in enumerate(all_pieces) if piece.peak), None)
    first, last = 0, len(all_pieces)
    if peak is not None:
        first, last = max(0, peak - _NEAR_BEFORE), peak + _NEAR_AFTER + 1
    start = "" if starts_document else "\u2026"
    before = start + _tokens(all_pieces[:first], largest)
    near = _tokens(all_pieces[first:last], largest)
    after = _tokens(all_pieces[last:], largest)
    if first > 0:
        near = f"<span class=far>{before}</span><span class=cut>\u2026</span>{near}"
    else:
        near = before + near
    if after:
        near += f"<span class=cut>\u2026</span><span class=far>{after}</span>"
    return Markup(near)


def snippet_markup(example: Example, largest: float) -> Markup:
    """The tokens next to the peak of an example, for one line of a list."""
    shown = pieces(example.texts, example.activations, example.peak)
    peak = next(place for place, piece in enumerate(shown) if piece.peak)
    first = max(0, peak - _SNIPPET_BEFORE)
    line = _tokens(shown[first : peak + _SNIPPET_AFTER + 1], largest).replace("<br>", "")
    return Markup(line.lstrip(" "))


def example_markup(example: Example, largest: float) -> Markup:
    """An example as an item of a list: its tokens, its place, and its activations as a table.

    Args:
        example: from the index.
        largest: the feature's own largest activation.
    """
    all_pieces = pieces(example.texts, example.activations, example.peak)
    tokens = tokens_markup(all_pieces, largest, starts_document=example.starts_document)
    place = f"document {count(example.document)}, token {count(example.position)}"
    if example.pre_activation is None:
        strength = f"<b>{figures(example.activation)}</b> {_share(example.activation, largest)}"
    else:
        strength = f"pre-activation <b>{figures(example.pre_activation)}</b>, not kept"
    more = ""
    if example.duplicates:
        more = f" \u00b7 <span class=more>{count(example.duplicates)} more like this</span>"
    return Markup(
        f"<li class=example><p class=tokens>{tokens}</p><details><summary>{strength} \u00b7 {place}"
        f"{more}</summary>{''.join(_table(all_pieces, largest))}</details></li>"
    )


def level(activation: int | float, largest: int | float) -> int:
    """The shade of an activation, 1 to 10, and 0 where the feature does not fire."""
    if not activation > 0 or not largest > 0:
        return 0
    return min(LEVELS, max(1, math.ceil(LEVELS * activation / largest)))


def _tokens(shown: list[Piece], largest: float) -> str:
    parts: list[str] = []
    plain = ""
    for piece in shown:
        shade = level(piece.activation, largest)
        if not shade and not piece.peak:
            plain += piece.text
            continue
        parts.append(_text(plain))
        plain = ""
        if shade:
            names = [f"h{shade}", *["peak"] * piece.peak, *["long"] * (len(piece.text) > _LONG)]
            classes = f'"{" ".join(names)}"' if len(names) > 1 else names[0]
            title = figures(piece.activation)
            parts.append(f"{_break_before(piece)}<i class={classes} title={title}>")
            parts.append(f"{_text(piece.text)}</i>")
        else:
            parts.append(f"{_break_before(piece)}<b class=peak>{_text(piece.text)}</b>")
    return "".join([*parts, _text(plain)])


def _break_before(piece: Piece) -> str:
    """Lets a line end before a token that begins with a space: the style keeps a colored token
    together, so that its space does not stay behind at the end of a line as an empty box."""
    return "<wbr>" if piece.text.startswith(" ") else ""


def _text(text: str) -> str:
    """Escaped and visible; a break after the sign of a line break, which the page may hide."""
    return escape(visible(text), quote=False).replace("\u23ce", "\u23ce<br>")


def _table(shown: list[Piece], largest: float) -> Iterator[str]:
    yield "<table><tr><th>token<th class=number>activation<th class=number>of its largest"
    for piece in shown:
        if piece.activation > 0 or piece.peak:
            name = f"<b>{_cell(piece.text)}</b> (peak)" if piece.peak else _cell(piece.text)
            share = rate(piece.activation / largest) if largest > 0 else ""
            value = figures(piece.activation)
            yield f"<tr><td>{name}<td class=number>{value}<td class=number>{share}"
    yield "</table>"


def _cell(text: str) -> str:
    return f"<bdi class=token>{escape(visible(text), quote=False)}</bdi>"


def _share(activation: float, largest: float) -> str:
    return f"({rate(activation / largest)} of its largest)" if largest > 0 else ""


def token_text(text: str) -> str:
    """A single token, plainly visible also where it is nothing but spaces."""
    shown = visible(text)
    return shown if shown.strip(" ") else "\u2423" * len(shown)
