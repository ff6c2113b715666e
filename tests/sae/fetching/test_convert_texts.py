"""From members of packages to openly licensed texts: documents, their order, what is left out."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae.fetching import convert_texts
from sparsteer.sae.fetching.convert_texts import plain_text

Convert = Callable[[dict[str, Path], Path], None]


@pytest.fixture
def converted(tmp_path: Path) -> Callable[..., list[dict[str, str]]]:
    """The rows that a converter makes of members with such content."""

    def rows(convert: Convert, members: dict[str, str | bytes]) -> list[dict[str, str]]:
        files = {name: tmp_path / str(number) for number, name in enumerate(members)}
        for name, content in members.items():
            files[name].write_bytes(content.encode() if isinstance(content, str) else content)
        convert(files, tmp_path / "out.jsonl")
        text = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n")[:-1]]

    return rows


Converted = Callable[..., list[dict[str, str]]]


def test_conversations(converted: Converted) -> None:
    def message(text: str) -> dict[str, str]:
        return {"text": text, "timestamp": "2018", "sender": "somebody"}

    conversations: dict[str, Any] = {
        "one": {
            "messages": [[message("Hello"), message("é?")], [message("Hi\u2028!")]],
            "prompt": "What now?",
            "ratings": {},
        },
        "two": {"messages": [[message("Bye")]], "prompt": None},
        "three": {"messages": []},
    }
    assert converted(convert_texts.convert_conversations, {"x": json.dumps(conversations)}) == [
        {"id": "one", "prompt": "What now?", "text": "Hello\né?\n\nHi\u2028!"},
        {"id": "two", "prompt": "", "text": "Bye"},
        {"id": "three", "prompt": "", "text": ""},
    ]


def test_articles_keep_their_columns(converted: Converted) -> None:
    articles = {
        title: {"title": title, "extract": f"{title} is.", "description": "d", "topic": "Arts"}
        for title in ("Zebra", "Ape")
    }
    found = converted(convert_texts.convert_articles, {"x": json.dumps(articles)})
    assert found == list(articles.values())


def test_recipes(converted: Converted) -> None:
    recipe = {
        "title": "Soup",
        "category": None,
        "servings": "4",
        "ingredients": ["1 ½ onions", "salt"],
        "steps": ["Cook.", "Eat."],
    }
    recipes = {"Cookbook:Soup": recipe, "Cookbook:Stew": {**recipe, "category": "Stews"}}
    text = "Soup\n\n1 ½ onions\nsalt\n\nCook.\nEat."
    assert converted(convert_texts.convert_recipes, {"x": json.dumps(recipes)}) == [
        {"page": "Cookbook:Soup", "category": "", "text": text},
        {"page": "Cookbook:Stew", "category": "Stews", "text": text},
    ]


def test_a_chapter_of_notes_is_a_document(converted: Converted) -> None:
    notes = [
        {"start": start, "body": {"en-US": english, "pt-BR": "Em"}}
        for start, english in (
            ("GEN.1.1", "<em>Beginning.</em> As &amp; so"),
            ("GEN.1.2", "Moved."),
            ("GEN.2.1", "<strong>Rested</strong>"),
        )
    ]
    found = converted(convert_texts.convert_commentary, {"x": json.dumps({"entries": notes})})
    assert found == [
        {"chapter": "GEN.1", "text": "Beginning. As & so\nMoved."},
        {"chapter": "GEN.2", "text": "Rested"},
    ]


def test_source_files_without_tests_and_empty_ones(converted: Converted) -> None:
    members = {
        "a/code.py": "x = 'é'\n",
        "a/__init__.py": " \n",
        "a/tests/test_code.py": "assert x",
        "b/migrations/1.py": "y",
        "b/latests.py": "z",
    }
    assert converted(convert_texts.convert_source_code, members) == [
        {"path": "a/code.py", "text": "x = 'é'\n"},
        {"path": "b/latests.py", "text": "z"},
    ]


def test_documentation_is_of_the_newest_version_and_says_a_thing_once(
    converted: Converted,
) -> None:
    def described(word: str) -> bytes:
        values = {
            "documentation": f"<p>{word} keeps   things.</p>",
            "operations": {"Put": {"documentation": "<p>Puts.</p><ul><li>One.</li></ul>"}},
            "shapes": {
                "Thing": {
                    "documentation": None,
                    "members": {
                        "Dry": {"documentation": "<p>Only <code>checks</code>.</p>"},
                        "Bare": {},
                    },
                },
                "Other": {"members": {"Dry": {"documentation": "<p>Only checks.</p>"}}},
                "Plain": {},
            },
        }
        return gzip.compress(json.dumps(values).encode())

    members = {
        "data/s3/2020-01-01/service-2.json.gz": described("New"),
        "data/s3/2010-01-01/service-2.json.gz": described("Old"),
        "data/ec2/2010-01-01/service-2.json.gz": described("Other"),
    }
    assert converted(convert_texts.convert_api_documentation, members) == [
        {"id": "ec2", "text": "Other keeps things."},
        {"id": "ec2/Put", "text": "Puts.\nOne."},
        {"id": "ec2/Thing", "text": "Only checks."},
        {"id": "s3", "text": "New keeps things."},
    ]


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>a</p> <p>b</p>", "a\nb"),
        ("a<br/>b<BR>c", "a\nbc"),
        ("1 < 2 and x > y", "1 < 2 and x > y"),
        ("&lt;p&gt; &eacute;", "<p> é"),
        (" a \n\n <i>b</i>\t c ", "a\nb c"),
        ("", ""),
    ],
)
def test_words_without_markup(markup: str, text: str) -> None:
    assert plain_text(markup) == text
