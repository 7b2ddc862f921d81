"""Reads a page's HTML the way a careful reviewer does: ids, labels, what the CSP forbids."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"input", "meta", "link", "br", "hr", "img", "path", "rect", "circle", "line"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """The elements of a page, in order, each with the text inside it."""

    html: str
    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[Element] = []
        self.feed(self.html)

    def all(self, tag: str, **wanted: str) -> list[Element]:
        wanted = {name.rstrip("_"): value for name, value in wanted.items()}
        return [
            element
            for element in self.elements
            if element.tag == tag and wanted.items() <= element.attributes.items()
        ]

    def one(self, tag: str, **wanted: str) -> Element:
        (element,) = self.all(tag, **wanted)
        return element

    def by_id(self, name: str) -> Element:
        (element,) = [e for e in self.elements if e.attributes.get("id") == name]
        return element

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        for index in reversed(range(len(self._open))):
            if self._open[index].tag == tag:
                del self._open[index:]
                return

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data


def faults(html: str) -> list[str]:
    """What a page must not have: inline code, doubled ids, fields without a label, no h1."""
    page = Page(html)
    found = []
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    found += [f"id {name} is there twice" for name in {i for i in ids if ids.count(i) > 1}]
    if len(page.all("h1")) != 1:
        found.append(f"{len(page.all('h1'))} h1")
    labelled = {e.attributes.get("for") for e in page.all("label")}
    for element in page.elements:
        attributes = element.attributes
        handlers = [name for name in attributes if name == "style" or name.startswith("on")]
        found += [f"{element.tag} has {name}" for name in handlers]
        if element.tag == "style" or (element.tag == "script" and "src" not in attributes):
            found.append(f"inline {element.tag}")
        if element.tag in ("input", "select", "textarea"):
            wrapped_or_unseen = attributes.get("type") in ("hidden", "radio", "checkbox")
            has_label = attributes.get("id") in labelled or "aria-label" in attributes
            if not (wrapped_or_unseen or has_label):
                found.append(f"field {attributes.get('name')} has no label")
        for name in ("aria-describedby", "aria-labelledby"):
            targets = attributes.get(name, "").split()
            found += [f"{name} leads nowhere: {i}" for i in targets if i not in ids]
        if element.tag == "svg" and not {"width", "height"} & attributes.keys():
            found.append("svg without a size")
    return found
