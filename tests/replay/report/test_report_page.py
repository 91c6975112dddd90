"""The page's structure: valid, safe whatever is in it, self-contained, the same each time."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree as ET

import html5lib
import made_up
import pytest

from holdfast.replay.report import page
from holdfast.replay.results import Replay

NAMELESS = Replay(seed=1, scale=1, incidents=[], started="whenever", took=0.2)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    page.write(made_up.replay(), path)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(written: str) -> ET.Element:
    parser = html5lib.HTMLParser(strict=False, namespaceHTMLElements=False)
    parsed = parser.parse(written)
    # Leading newlines and the like are no errors; broken nesting, stray tags and unknown entities are.
    assert [error for _, error, _ in parser.errors] == []
    return parsed


def words(element: ET.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def local(element: ET.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def test_ids_are_unique_and_every_reference_has_its_target(tree: ET.Element):
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    used = set()
    for element in tree.iter():
        for name, value in element.attrib.items():
            used.update(re.findall(r"url\(#([^)]+)\)", value))
            if name.rpartition("}")[2] == "href" and value.startswith("#"):
                used.add(value[1:])
            if name in {"aria-labelledby", "aria-describedby"}:
                used.update(value.split())
    assert used
    assert used <= set(ids)


def test_nothing_is_loaded_from_elsewhere(written: str, tree: ET.Element):
    assert "http://" not in written
    assert "https://" not in written
    assert "@import" not in written
    for element in tree.iter():
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert element.get(name, "#").startswith(("#", "data:,")), (element.tag, name)
    policy = next(element.get("content", "") for element in tree.iter("meta") if element.get("http-equiv"))
    assert "default-src 'none'" in policy


def test_hostile_text_stays_text(tree: ET.Element):
    assert len(list(tree.iter("script"))) == 1
    assert not [element for element in tree.iter() if local(element) == "b"]
    shown = made_up.HOSTILE.replace("\x1b", "\ufffd").replace("\ud800", "\ufffd")
    titles = [words(element) for element in tree.iter() if local(element) in {"h2", "h4", "title", "del"}]
    assert [title for title in titles if shown in title]
    assert "{{ 7 * 7 }}" in words(tree)
    assert not [name for element in tree.iter() for name in element.attrib if name.startswith("on")]


def test_headings_do_not_skip_a_level(tree: ET.Element):
    levels = [int(local(element)[1]) for element in tree.iter() if re.fullmatch("h[1-6]", local(element))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def section(tree: ET.Element, key: str) -> ET.Element:
    return next(element for element in tree.iter("section") if element.get("id") == key)


def test_the_overview_says_what_each_incident_comes_down_to_and_what_did_not_hold(tree: ET.Element):
    told = words(section(tree, "glance"))
    assert [words(element) for element in tree.iter("h1")] == ["2 of 3 claims held"]
    assert "1 of 2 claims held" in told
    assert re.search(r"p99 of partners\s+4,210 ms\s+19 ms", told)
    assert "512 ms" in told
    assert "S2S throughput falls" not in told


def test_every_claim_is_in_its_incident_once_with_its_result_in_words(tree: ET.Element):
    rows = [words(row) for row in next(section(tree, "incident-1").iter("table")).iter("tr")][1:]
    assert len(rows) == 2
    assert "✓ held" in rows[0]
    assert "✗ not held" in rows[1]


def test_parts_that_did_not_run_are_named_with_their_reasons(tree: ET.Element):
    left_out = section(tree, "skipped")
    assert "incident 2: the firewall" in words(left_out)
    assert "Incident 1: memory limits need root" in words(left_out)


def test_every_chart_has_two_drawings_a_name_a_description_and_its_numbers(tree: ET.Element):
    figures = list(tree.iter("figure"))
    assert len(figures) == sum(len(incident.charts) for incident in made_up.replay().incidents)
    for figure in figures:
        drawings = [element for element in figure.iter() if local(element) == "svg"]
        if "Nothing was measured" in words(figure):
            continue
        assert [drawing.get("class") for drawing in drawings] == ["wide", "narrow"]
        for drawing in drawings:
            assert drawing.get("role") == "img"
            names = {local(child): words(child) for child in drawing if local(child) in {"title", "desc"}}
            assert names["title"]
            assert names["desc"]
    assert len(list(tree.iter("details"))) >= len(figures) - 3


def test_charts_have_text_as_text_and_colours_by_name(written: str):
    drawings = re.findall(r"<svg.*?</svg>", written, re.DOTALL)
    for drawing in drawings:
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r"<(title|desc|text).*?</\1>", "", drawing, flags=re.DOTALL))
    assert re.search(r"<text[^>]*>seconds since the run's start</text>", written)


def test_numbers_are_decimated(tree: ET.Element):
    for table in tree.iter("table"):
        assert len(list(table.iter("tr"))) <= 26
    dense = next(element for element in tree.iter("figure") if "Dense" in words(element))
    assert len(list(dense.iter("tr"))) == 25


def test_the_difference_marks_lines_beside_their_sign(tree: ET.Element):
    added = [words(element) for element in tree.iter("ins")]
    removed = [words(element) for element in tree.iter("del")]
    assert added[0] == "+from holdfast.clients.httpx import Client"
    assert removed[0] == "-client = httpx.Client()"


def test_the_same_replay_gives_the_same_page_of_modest_size(written: str):
    assert page.render(made_up.replay()) == written
    assert len(written.encode()) < 3_000_000


def test_a_replay_of_nothing_is_a_page_too():
    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    empty = parser.parse(page.render(NAMELESS))
    assert parser.errors == []
    assert "No incident ran" in words(empty)
    assert "Nothing was left out." in words(empty)
    assert "whenever" in words(empty)
