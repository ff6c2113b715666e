"""HTML in which text is always escaped: what is not `Html` already goes through `html.escape`."""

import html
from collections.abc import Iterable


class Html(str):
    """Text that is HTML already and goes into a page as it stands."""

    __slots__ = ()


Child = str | Iterable["Html"]
"""What a tag may hold: text, which is escaped; HTML, which is not; or several pieces of HTML."""

_VOID = ("meta", "br")


def tag(name: str, /, *children: Child, **attributes: str) -> Html:
    """The element with its children; `class_` stands for class, `_` in other names for `-`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """The children one after the other."""
    return Html("".join(_written(child) for child in children))


def _written(child: Child) -> str:
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return html.escape(child)
    return "".join(_written(piece) for piece in child)


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], class_: str = "") -> Html:
    """A table with a row of headings; the first cell of every other row is its heading."""
    top = tag("tr", [tag("th", cell, scope="col") for cell in head])
    body: list[Html] = []
    for first, *others in rows:
        cells = [tag("th", first, scope="row"), *(tag("td", cell) for cell in others)]
        body.append(tag("tr", cells))
    return tag("table", tag("thead", top), tag("tbody", body), class_=class_)
