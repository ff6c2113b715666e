"""From the members of downloaded packages to openly licensed texts, one document a row.

As in `convert.py` the members' checksums have been verified, and a text becomes one JSONL file in
the source's order. Each converter says what it leaves out; markup is taken away, words are not.
"""

import gzip
import html
import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from .convert import Members, write_jsonl

_LINE_ENDS = re.compile(r"<br ?/?>|</(p|li|dt|dd|h[1-6]|tr)>")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_SPACES = re.compile(r"[^\S\n]+")
_EMPTY_LINES = re.compile(r" ?\n[ \n]*")

_NOT_READ = ("tests", "benchmarks", "migrations")
"""Folders of source code that is made up of data or of near repetitions."""


def convert_conversations(members: Members, target: Path) -> None:
    """One JSON object of conversations to rows {id, prompt, text}.

    A line is a message, an empty line stands between two speakers. Names of speakers, times and
    ratings are left out; `prompt`, the question that both were given, is empty where there is none.
    """
    conversations: dict[str, Any] = json.loads(_only(members).read_text(encoding="utf-8"))
    write_jsonl(
        target,
        (
            {
                "id": name,
                "prompt": conversation.get("prompt") or "",
                "text": "\n\n".join(
                    "\n".join(message["text"] for message in turn)
                    for turn in conversation["messages"]
                ),
            }
            for name, conversation in conversations.items()
        ),
    )


def convert_articles(members: Members, target: Path) -> None:
    """One JSON object of articles by title to rows {title, extract, description, topic}."""
    articles: dict[str, dict[str, str]] = json.loads(_only(members).read_text(encoding="utf-8"))
    write_jsonl(target, articles.values())


def convert_recipes(members: Members, target: Path) -> None:
    """One JSON object of recipes by page to rows {page, category, text}.

    The text is title, ingredients and steps, each on a line of its own, with an empty line between
    the three. Servings, time and difficulty are left out.
    """
    recipes: dict[str, Any] = json.loads(_only(members).read_text(encoding="utf-8"))
    write_jsonl(
        target,
        (
            {
                "page": page,
                "category": recipe["category"] or "",
                "text": "\n\n".join(
                    (
                        recipe["title"],
                        "\n".join(recipe["ingredients"]),
                        "\n".join(recipe["steps"]),
                    )
                ),
            }
            for page, recipe in recipes.items()
        ),
    )


def convert_commentary(members: Members, target: Path) -> None:
    """One JSON object with notes on verses to rows {chapter, text}, the English notes of a chapter
    in their order, each on a line. Translations are left out."""
    notes: list[dict[str, Any]] = json.loads(_only(members).read_text(encoding="utf-8"))["entries"]
    chapters = groupby(notes, key=lambda note: str(note["start"]).rpartition(".")[0])
    write_jsonl(
        target,
        (
            {
                "chapter": chapter,
                "text": "\n".join(plain_text(note["body"]["en-US"]) for note in of_chapter),
            }
            for chapter, of_chapter in chapters
        ),
    )


def convert_source_code(members: Members, target: Path) -> None:
    """Source files to rows {path, text}, those with text in them.

    Tests, benchmarks and migrations are left out: they are largely data, or repeat each other.
    """
    write_jsonl(
        target,
        (
            {"path": member, "text": text}
            for member, file in members.items()
            if not set(member.split("/")).intersection(_NOT_READ)
            and (text := file.read_text(encoding="utf-8")).strip()
        ),
    )


def convert_api_documentation(members: Members, target: Path) -> None:
    """Descriptions of web services, `.../SERVICE/VERSION/service-2.json.gz`, to rows {id, text}.

    A row is what is documented of a service, of one of its operations, or of one of its data types
    with its fields, a paragraph each. Of each service the newest version is read, and a paragraph
    that has come before is left out, so that common options do not fill the text.
    """
    newest = {Path(member).parts[-3]: file for member, file in sorted(members.items())}
    said: set[str] = set()

    def rows() -> Iterator[Mapping[str, str]]:
        for service, file in newest.items():
            described = json.loads(gzip.decompress(file.read_bytes()))
            for name, documented in _documented(service, described):
                paragraphs = [plain_text(text) for text in documented]
                new = [text for text in dict.fromkeys(paragraphs) if text and text not in said]
                said.update(new)
                if new:
                    yield {"id": name, "text": "\n\n".join(new)}

    write_jsonl(target, rows())


def _documented(service: str, described: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The parts of a service's description that are documented, with the markup of each."""
    yield service, [described.get("documentation") or ""]
    for kind in ("operations", "shapes"):
        for name, part in described[kind].items():
            fields = part.get("members", {}).values()
            texts = [item.get("documentation") or "" for item in (part, *fields)]
            yield f"{service}/{name}", texts


def plain_text(markup: str) -> str:
    """The words of a text with HTML in it, without tags; a paragraph or list item ends a line."""
    text = html.unescape(_TAG.sub("", _LINE_ENDS.sub("\n", _SPACES.sub(" ", markup))))
    return _EMPTY_LINES.sub("\n", _SPACES.sub(" ", text)).strip()


def _only(members: Members) -> Path:
    (file,) = members.values()
    return file
