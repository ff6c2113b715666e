"""Examples as markup: light, faithful and harmless."""

import random
import re
from html import unescape
from html.parser import HTMLParser

import pytest

from sparsteer.app.browser.examples import (
    LEVELS,
    example_markup,
    level,
    pieces,
    tokens_markup,
)
from sparsteer.sae.common.text import visible
from sparsteer.steering.features.feature import Example

HOSTILE = (
    "<script>alert(1)</script>",
    "</span></li>",
    '" onload="x',
    "&lt;",
    "\u202egnp.exe",
    "\0",
    "a\u200bb",
    "\ud83d",
    "\u2028",
)


def example_of(texts: list[str], activations: list[float], peak: int, **more: object) -> Example:
    values = {"document": 7, "position": 30, "row": 5, "tokens": tuple(range(len(texts)))}
    return Example(
        activation=activations[peak],
        peak=peak,
        texts=tuple(texts),
        activations=tuple(activations),
        **(values | more),  # pyright: ignore[reportArgumentType] - of several types
    )


class Reader(HTMLParser):
    """The elements of a markup, and its text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(str(markup))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_text_comes_out_whole() -> None:
    for seed in range(30):
        draw = random.Random(seed)
        texts = [draw.choice([" a", "b\n", "\u05e9\u05dc", "", "<i>", *HOSTILE]) for _ in range(40)]
        texts[0] = "x"
        activations = [draw.choice([0.0, 0.0, draw.uniform(0.01, 3)]) for _ in texts]
        peak = draw.randrange(len(texts))
        shown = tokens_markup(pieces(texts, activations, peak), 3.0, starts_document=True)
        text = Reader(shown).text
        without_cuts = re.sub("<span class=cut>.*?</span>", "", shown)
        assert Reader(without_cuts).text == visible("".join(texts))
        assert text.count("\u2026") == shown.count("class=cut")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_tokens_are_harmless_and_visible(text: str) -> None:
    example = example_of(["one", text, text, "two"], [0.0, 1.0, 2.0, 0.0], 2)
    markup = Reader(example_markup(example, 2.0))
    names = {name for name, _ in markup.elements}
    assert names <= {
        "li",
        "p",
        "i",
        "br",
        "details",
        "summary",
        "table",
        "tr",
        "th",
        "td",
        "b",
        "bdi",
    }
    assert all(set(given) <= {"class", "title"} for _, given in markup.elements)
    assert all(character.isprintable() for character in markup.text)
    assert visible(text) in markup.text
    str(example_markup(example, 2.0)).encode()  # a page can be sent


def test_only_active_tokens_are_elements() -> None:
    texts = [f" word{place}" for place in range(33)]
    activations = [0.0] * 33
    activations[24], activations[25] = 4.0, 1.0
    markup = Reader(tokens_markup(pieces(texts, activations, 24), 4.0, starts_document=False))
    heat = [given for name, given in markup.elements if name == "i"]
    assert heat == [{"class": "h10 peak", "title": "4.00"}, {"class": "h3", "title": "1.00"}]
    assert markup.text.startswith("\u2026 word0")


def test_a_character_of_several_tokens_takes_the_heat_of_all() -> None:
    found = pieces(["\u20ac", "", "", " x"], [0.0, 3.0, 1.0, 0.0], 1)
    assert [(one.text, one.activation, one.peak) for one in found] == [
        ("\u20ac", 3.0, True),
        (" x", 0.0, False),
    ]


def test_a_near_miss_is_outlined_and_says_how_near() -> None:
    example = example_of(["a", "b"], [0.0, 0.0], 1, pre_activation=0.75)
    markup = example_markup(example, 2.0)
    assert "<b class=peak>b</b>" in markup
    assert "pre-activation <b>0.750</b>, not kept" in markup


def test_folded_duplicates_and_the_place_are_said() -> None:
    shown = example_markup(example_of(["a", "b"], [0.0, 1.5], 1, duplicates=12), 3.0)
    text = Reader(shown).text
    assert "12 more like this" in text
    assert "document 7, token 30" in text
    assert "50% of its largest" in text


def test_line_breaks_can_be_shown() -> None:
    shown = tokens_markup(pieces(["a\n", "b"], [0.0, 1.0], 1), 1.0, starts_document=True)
    assert shown == 'a\u23ce<br><i class="h10 peak" title=1.00>b</i>'


def test_levels_are_shares_of_the_largest() -> None:
    largest = 7.0
    levels = [level(largest * part / 100, largest) for part in range(101)]
    assert levels[0] == 0 and levels[1] == 1 and levels[100] == LEVELS
    assert levels == sorted(levels)
    assert level(8.0, largest) == LEVELS
    assert level(1.0, 0.0) == 0
    assert level(float("nan"), largest) == 0


def test_the_table_has_every_active_token() -> None:
    texts, activations = ["a", " b", "c"], [0.5, 2.0, 0.0]
    shown = example_markup(example_of(texts, activations, 1), 2.0)
    cells = re.findall(r"<td>(.*?)<td class=number>(.*?)<td class=number>(.*?)<", shown + "<")
    assert [(unescape(value), share) for _, value, share in cells] == [
        ("0.500", "25%"),
        ("2.00", "100%"),
    ]
