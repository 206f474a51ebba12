"""Reads an HTML page for a test."""

import re
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The elements, the text and the addresses of a page; every element must be closed in the right place."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._add(tag, attrs)
        if tag not in ("bdi", "mark"):
            self.words.append(" ")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._add(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    def _add(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        """Returns the attributes of the elements of a class, or of several classes: "mark pushed"."""
        return [found for found in self.attributes if set(name.split()) <= set((found.get("class") or "").split())]

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).replace("\u00a0", " ").split())


def read_page(path: Path) -> Page:
    """Reads a page, which must be well formed, run no script, load nothing, and show no NaN."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "nan" not in re.findall(r"\w+", page.text.lower())
    assert not any("nan" in (found.get(name) or "") for found in page.attributes for name in ("d", "cx", "cy", "x", "y", "height"))
    return page
