"""matplotlib's SVG made fit for a page with others of its kind."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from holdfast.replay.report.palette import COLOURS
from holdfast.replay.report.text import clean

_NAMES = {light: f"var(--{name})" for name, (light, _) in COLOURS.items()}
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_LINK = "href"


def embedded(written: str, *, key: str, kind: str, title: str, description: str) -> str:
    """The drawing as an element of a page.

    Colours become custom properties, fonts the page's, ids begin with `key`; matplotlib's own style sheet, which would apply to the
    whole page, goes.

    Args:
        written: what matplotlib wrote.
        key: unique on the page.
        kind: its class.
        title: for those who do not see it, and as a tool tip.
        description: likewise, longer.
    """
    root = ET.fromstring(written)  # noqa: S314  (our own drawing, not a stranger's XML)
    _without(root, {"metadata", "style"})
    for element in root.iter():
        _local(element)
    names = _references(root, key)
    for element in root.iter():
        _fit(element, names)
    _, _, width, height = root.get("viewBox", "0 0 0 0").split()
    root.attrib = {
        "class": kind,
        "viewBox": f"0 0 {width} {height}",
        "style": f"max-width: {width}px",
        "role": "img",
        "aria-labelledby": f"{key}-title",
        "aria-describedby": f"{key}-desc",
    }
    for place, (tag, words) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(tag, {"id": f"{key}-{tag}"})
        element.text = clean(words)
        root.insert(place, element)
    return ET.tostring(root, encoding="unicode")


def _without(element: ET.Element, tags: set[str]) -> None:
    for child in list(element):
        if child.tag.rpartition("}")[2] in tags:
            element.remove(child)
        else:
            _without(child, tags)


def _local(element: ET.Element) -> None:
    # An HTML parser knows SVG's elements without a namespace, and href without a prefix.
    element.tag = element.tag.rpartition("}")[2]
    element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    element.text = element.text if element.tag == "text" else None
    element.tail = None


def _references(root: ET.Element, key: str) -> dict[str, str]:
    """Id -> its new name, for those that something refers to."""
    found: dict[str, str] = {}
    for element in root.iter():
        used = [name for value in element.attrib.values() for name in _REFERENCE.findall(value)]
        used += [element.get(_LINK, "").removeprefix("#")]
        for name in filter(None, used):
            found.setdefault(name, f"{key}-{len(found)}")
    return found


def _fit(element: ET.Element, names: dict[str, str]) -> None:
    attributes: dict[str, str] = {}
    style = [part.strip() for part in element.get("style", "").split(";") if part.strip()]
    for name, value in element.attrib.items():
        if name == "id" and value in names:
            attributes["id"] = names[value]
        elif name in {"fill", "stroke"}:
            style.append(f"{name}: {value}")  # as an attribute it could not be a custom property in every browser
        elif name == _LINK:
            attributes[name] = f"#{names[value.removeprefix('#')]}"
        elif name not in {"id", "style"} and not value.startswith("rotate(-0 "):
            attributes[name] = _short(_REFERENCE.sub(lambda found: f"url(#{names[found[1]]})", value))
    if style:
        attributes["style"] = "; ".join(_styled(part, names) for part in style if not part.startswith("font-family"))
    element.attrib = attributes


def _styled(part: str, names: dict[str, str]) -> str:
    name, _, value = part.partition(": ")
    value = _NAMES.get(value, value)
    return f"{name}: {_REFERENCE.sub(lambda found: f'url(#{names[found[1]]})', value)}"


def _short(value: str) -> str:
    return _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.2f}", " ".join(value.split()))
