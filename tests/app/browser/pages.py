"""Reading pages in tests."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The elements of a page with their attributes and the text inside, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, tag: str, name: str) -> list[str]:
        """The values of an attribute of all elements of a kind that have it."""
        return [given[name] or "" for one, given in self.elements if one == tag and name in given]

    def require_harmless(self) -> None:
        """No script but files of this server, and nothing inline that the policy forbids."""
        for tag, given in self.elements:
            assert "style" not in given, (tag, given)
            assert not any(name.startswith("on") for name in given), (tag, given)
            assert tag != "script" or (given.get("src") or "").startswith("/static/"), given
