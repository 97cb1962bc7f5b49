"""What a test reads of a page: its elements, and what a browser would load for it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

_EMPTY = {"meta", "link", "img", "br", "input", "hr"}
_LOADING = re.compile(r"@import|\bimport\b|url\(|fetch\(|XMLHttpRequest|https?://")
_SVG = "http://www.w3.org/2000/svg"  # a name, which nothing loads
_LOADS = ("src", "href", "srcset", "data", "action", "poster", "xlink:href")


@dataclass
class Page(HTMLParser):
    """The elements of a page in order, its texts, and what is not closed."""

    source: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open[-1:] in (["script"], ["style"]) else self.texts).append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every element of this name."""
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self) -> str:
        """All texts, with single spaces."""
        return " ".join(" ".join(self.texts).split())

    def loaded(self) -> list[str]:
        """What a browser would load from elsewhere."""
        found = [
            attributes[name]
            for _, attributes in self.elements
            for name in _LOADS
            if name in attributes and not attributes[name].startswith(("data:", "#"))
        ]
        scripts = [s.replace(_SVG, "") for s in self.scripts]
        return found + [match[0] for s in scripts for match in _LOADING.finditer(s)]


def check(source: str) -> Page:
    """The page, after what holds for every page was checked."""
    page = Page(source)
    assert page.open == [] and page.wrong == []
    assert page.loaded() == []
    (policy,) = (m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'")
    assert page.all("html") == [{"lang": "en"}]
    assert any(m.get("name") == "viewport" for m in page.all("meta"))
    assert all(image["alt"] for image in page.all("img"))
    assert all(
        {"role", "aria-label"} <= set(svg) or svg.get("aria-hidden") == "true"
        for svg in page.all("svg")
    )
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    linked = {a["href"][1:] for a in page.all("a")}
    assert linked <= set(ids)
    assert len(page.all("h1")) == 1
    return page
