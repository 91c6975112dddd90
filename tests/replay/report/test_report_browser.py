"""The page as people see it, in a real browser: on a phone, on a desk, in both themes, on paper, by keyboard.

`HOLDFAST_SCREENSHOTS=DIR` keeps the screenshots, to be looked at.
"""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import browser as scripts
import made_up
import pypdfium2
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from holdfast.replay.parts.process import Unavailable
from holdfast.replay.report import page as report
from holdfast.replay.report.palette import COLOURS

SIZES = {"phone": (375, 812), "desk": (1280, 900), "tablet": (720, 1024), "small phone": (320, 640)}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    found = shutil.which("chromium")
    if found is None:
        raise Unavailable("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write(made_up.replay(), path)
    return path


@contextmanager
def opened(chromium: Browser, file: Path, size: str = "desk", theme: str = "light", *, script: bool = True) -> Iterator[Page]:
    """The page in a window; afterwards it has loaded nothing but itself and complained about nothing."""
    width, height = SIZES[size]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=theme, java_script_enabled=script)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: complaints.append(request.url) if request.url not in {file.as_uri(), "data:,"} else None)
    page.goto(file.as_uri())
    yield page
    assert complaints == []
    context.close()


def looked_at(page: Page, name: str) -> Image.Image:
    """A screenshot of the whole page."""
    taken = page.screenshot(full_page=True)
    if folder := os.environ.get("HOLDFAST_SCREENSHOTS"):
        Path(folder, f"{name.replace(' ', '-')}.png").write_bytes(taken)
    return Image.open(io.BytesIO(taken)).convert("RGB")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_overflows_or_overlaps(chromium, file, size, theme):
    with opened(chromium, file, size, theme) as page:
        assert page.evaluate(scripts.OVERFLOWS) == []
        assert page.evaluate(scripts.OVERLAPS) == []
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate(scripts.OVERFLOWS) == []
        looked_at(page, f"{size}-{theme}")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", ["phone", "desk"])
def test_every_text_has_enough_contrast(chromium, file, size, theme):
    with opened(chromium, file, size, theme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        page.set_viewport_size({"width": SIZES[size][0], "height": page.evaluate("document.documentElement.scrollHeight")})
        assert page.evaluate(scripts.CONTRASTS) == []


@pytest.mark.parametrize(("size", "least"), [("small phone", 10.0), ("phone", 11.9), ("tablet", 11.4), ("desk", 11.9)])
def test_the_text_of_charts_is_large_enough_to_read(chromium, file, size, least):
    with opened(chromium, file, size) as page:
        assert page.evaluate(scripts.SMALLEST) >= least


@pytest.mark.parametrize(("size", "kind"), [("phone", "narrow"), ("small phone", "narrow"), ("tablet", "wide"), ("desk", "wide")])
def test_one_drawing_of_each_chart_is_shown(chromium, file, size, kind):
    with opened(chromium, file, size) as page:
        shown = "[...document.querySelectorAll('figure svg')].filter(one => one.getClientRects().length).map(one => one.classList[0])"
        assert set(page.evaluate(shown)) == {kind}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_runs_are_seen_in_the_theme_s_colours(chromium, file, theme):
    with opened(chromium, file, "desk", theme) as page:
        seen = {colour for _, colour in looked_at(page, f"colours-{theme}").getcolors(1 << 24) or []}
    for name in ("paper", "run-a", "run-b", "bad", "good", "held", "failed"):
        wanted = COLOURS[name][theme == "dark"]
        assert tuple(bytes.fromhex(wanted[1:])) in seen, name


def test_the_theme_can_be_chosen_by_keyboard_whatever_the_system_says(chromium, file):
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(chromium, file, theme="dark") as page:
        system = page.evaluate(ground)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.inner_text("#theme") == "Theme: light"
        assert page.evaluate(ground) == "rgb(255, 255, 255)" != system
        page.keyboard.press("Enter")
        assert page.inner_text("#theme") == "Theme: dark"
        assert page.evaluate(ground) == system


def test_numbers_open_and_wide_parts_scroll_by_keyboard(chromium, file):
    with opened(chromium, file, "phone") as page:
        page.focus("summary")
        page.keyboard.press("Enter")
        assert page.evaluate("document.querySelector('details').open")
        page.focus(".difference")
        page.keyboard.press("ArrowRight")
        give_up = time.monotonic() + 10
        while page.evaluate("document.querySelector('.difference').scrollLeft") == 0:  # it scrolls smoothly
            assert time.monotonic() < give_up
            page.wait_for_timeout(50)


def test_the_page_does_without_its_script(chromium, file):
    with opened(chromium, file, script=False) as page:
        assert not page.is_visible("#theme")
        assert page.is_visible("figure svg.wide")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_paper_is_white_and_as_wide_as_a4(chromium, file, theme):
    with opened(chromium, file, "phone", theme) as page:
        page.emulate_media(media="print", color_scheme=theme)
        page.set_viewport_size({"width": 680, "height": 1000})  # 180 mm
        assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--paper')") == "#ffffff"
        assert page.evaluate("getComputedStyle(document.querySelector('svg.wide')).display") == "block"
        assert page.evaluate("getComputedStyle(document.querySelector('svg.narrow')).display") == "none"
        assert not page.is_visible("#theme")
        assert page.evaluate(scripts.OVERFLOWS) == []
        assert page.evaluate(scripts.OVERLAPS) == []


def test_no_chart_is_cut_by_the_end_of_a_printed_page(chromium, file, tmp_path):
    with opened(chromium, file) as page:
        page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    printed = pypdfium2.PdfDocument(tmp_path / "report.pdf")
    assert {tuple(round(length) for length in sheet.get_size()) for sheet in printed} == {(595, 842)}
    texts = [" ".join(sheet.get_textpage().get_text_bounded().split()) for sheet in printed]
    # From its title to the last line below its axis a chart stands on one sheet.
    for title, foot in [
        ("Requests per minute by method", "seconds since"),
        ("Workers and queue", "queue length"),
        ("Breaker In words.", "half-open"),
    ]:
        sheets = [text for text in texts if title in text]
        assert len(sheets) == 1, title
        assert foot in sheets[0].partition(title)[2], title
    printed.close()
