"""Every example of the documentation runs, and every claim in one is checked.

The ```python blocks of a page run in order, in one namespace, with warnings as errors. In a block

    1 + 1                   # -> 2                          the value's repr, or what a print() printed
    policy.call(charge)     # raises BreakerOpen: billing   the error's class, and a piece of its message

are checked where they stand behind an expression at the block's outermost level; anywhere else they are an error, so that none is
believed and not checked. A block is left out by a comment directly above it, which has to say why: <!-- no-run: needs a server -->
"""

from __future__ import annotations

import ast
import code
import contextlib
import contextvars
import gc
import io
import re
import socket
import sys
import threading
import time
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import events
from holdfast.deadlines import ambient
from holdfast.drivers.clock import SystemClock, current

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "AGENTS.md", ROOT / "CONTRIBUTING.md"]

_FENCE = re.compile(r"```(.*)")
_NO_RUN = re.compile(r"<!--\s*no-run:(.*)-->")
_CLAIM = re.compile(r"#\s*(?:(->)\s+(.+)|(raises)\s+([A-Z]\w+(?:: .+)?)\s*$)")


@dataclass(frozen=True)
class Example:
    """One block: its first line in the page, its text, and why it is not run."""

    line: int
    source: str
    skipped: str | None


def examples(text: str) -> list[Example]:
    """The Python blocks of a page."""
    found: list[Example] = []
    block: list[str] | None = None
    language, begin, reason = "", 0, None
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if block is None and fence:
            language, begin, block = fence[1].strip(), number + 1, []
            comment = _NO_RUN.match(before)
            reason = comment[1].strip() if comment else None
            assert not language.lower().startswith("py") or language == "python", f"line {number}: write ```python, not ```{language}"
            assert comment is None or language == "python", f"line {number}: no-run above a block that would not run anyway"
            assert reason != "", f"line {number}: no-run without a reason"
        elif block is not None and line == "```":
            if language == "python":
                found.append(Example(begin, "\n".join(block) + "\n", reason))
            block = None
        elif block is not None:
            block.append(line)
        else:
            assert not line.lstrip().startswith("```"), f"line {number}: an indented block is not found by this test; start it in column 1"
        if line.strip():
            before = line
    assert block is None, f"line {begin}: the block is not closed"
    return found


def claims(source: str) -> dict[int, tuple[str, str]]:
    """Line -> what is claimed there: ("->", text) or ("raises", text)."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [(token.start[0], _CLAIM.match(token.string)) for token in tokens if token.type == tokenize.COMMENT]
    return {line: (match[1] or match[3], (match[2] or match[4]).strip()) for line, match in comments if match}


def run(example: Example, namespace: dict[str, Any], page: str) -> None:
    """Run a block, and compare what is claimed in it."""
    padded = "\n" * (example.line - 1) + example.source  # so that tracebacks point into the page
    claimed = claims(padded)
    for node in ast.parse(padded, page).body:
        claim = claimed.pop(node.end_lineno or 0, None) if isinstance(node, ast.Expr) else None
        if claim is None or not isinstance(node, ast.Expr):
            exec(compile(ast.Module([node], []), page, "exec"), namespace)
            continue
        where = f"{page}:{node.end_lineno}"
        compiled = compile(ast.Expression(node.value), page, "eval")
        if claim[0] == "raises":
            expect_error(compiled, namespace, claim[1], where)
        else:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                value = eval(compiled, namespace)
            shown = printed.getvalue().rstrip("\n") if value is None and printed.getvalue() else repr(value)
            assert shown == claim[1], f"{where}: the page says {claim[1]}, and it is {shown}"
    assert not claimed, f"{page}:{min(claimed)}: this claim is not behind an expression at the outermost level, so nothing checks it"


def expect_error(compiled: Any, namespace: dict[str, Any], claim: str, where: str) -> None:
    """Evaluate, and compare the error's class and message."""
    name, _, message = claim.partition(": ")
    raised: Exception | None = None
    value: object = None
    try:
        value = eval(compiled, namespace)
    except Exception as error:
        raised = error
    assert raised is not None, f"{where}: the page says that this raises {name}, and it returned {value!r}"
    assert type(raised).__name__ == name, f"{where}: the page says {name}, and it is {raised!r}"
    assert message in str(raised), f"{where}: the page says {message!r}, and it is {str(raised)!r}"


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Fail where the block leaves a thread, a listener, a deadline, a clock, patched sockets or an unclosed thing behind."""
    try:
        with _nothing_left():
            yield
    finally:  # a page that failed in its middle is not to fail the other tests
        events.listeners.clear()
        holdfast.uninstall()


@contextlib.contextmanager
def _nothing_left() -> Iterator[None]:
    before = set(threading.enumerate())
    look_up = socket.getaddrinfo
    unraisable: list[str] = []
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("error")
        # What is raised by a destructor (an unclosed socket, a coroutine never awaited) reaches nobody but this hook.
        patch.setattr(sys, "unraisablehook", lambda what: unraisable.append(repr(what.exc_value)))
        yield
        gc.collect()
    assert not unraisable, "something was not closed or not awaited"
    give_up = time.monotonic() + 2.0
    while set(threading.enumerate()) - before and time.monotonic() < give_up:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before, "a thread is left"
    assert socket.getaddrinfo is look_up, "install() is left: end it with uninstall()"
    assert not events.listeners, "a listener is left: end it with what subscribe() returned"
    assert ambient.get() is None, "a deadline is left"
    assert isinstance(current.get(), SystemClock), "a test's clock is left"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_example_of_the_page_runs(page: Path) -> None:
    """Each block runs after those above it, what it claims holds, and the page leaves nothing behind."""

    def run_page() -> None:
        namespace: dict[str, Any] = {"__name__": page.stem}
        with nothing_left():
            for example in examples(page.read_text(encoding="utf-8")):
                if example.skipped is None:
                    run(example, namespace, str(page.relative_to(ROOT)))
            namespace.clear()

    contextvars.copy_context().run(run_page)


class _Console(code.InteractiveConsole):
    """A REPL that remembers what was raised in it."""

    def __init__(self) -> None:
        super().__init__()
        self.raised: list[str] = []

    def showtraceback(self) -> None:
        self.raised.append(type(sys.exc_info()[1]).__name__)

    def showsyntaxerror(self, *_args: Any, **_kwargs: Any) -> None:
        self.raised.append("SyntaxError")


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_examples_can_be_typed_into_a_repl(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks, line by line as a user types or pastes them: every error is one that is announced."""
    console = _Console()
    for example in examples((ROOT / page).read_text(encoding="utf-8")):
        if example.skipped is not None:
            continue
        more, console.raised = False, []
        for line in example.source.splitlines():
            more = console.push(line)
        assert not more, f"line {example.line}: the last statement is not complete: a def needs an empty line after it"
        assert console.raised == [what.split(":")[0] for kind, what in claims(example.source).values() if kind == "raises"], example.line
        shown = capsys.readouterr().out.splitlines()
        assert [what for kind, what in claims(example.source).values() if kind == "->" and what not in shown] == [], example.line


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file of the project, and a heading of it where it names one."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name}: {target} is not there"
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}
            assert heading in anchors, f"{page.name}: {target} names no heading"


# The checker itself is checked: documentation that cannot fail proves nothing.


def _run_text(text: str) -> None:
    for example in examples(text):
        if example.skipped is None:
            run(example, {}, "page.md")


def test_a_wrong_claim_fails() -> None:
    """What a page says and what happens must be the same, for values, prints and errors."""
    _run_text("```python\n1 + 1  # -> 2\nprint('a')  # -> a\nint('x')  # raises ValueError: invalid literal\n```")
    for wrong in (
        "1 + 1  # -> 3",
        "print('a')  # -> b",
        "int('x')  # raises KeyError",
        "int('x')  # raises ValueError: other",
        "int('1')  # raises ValueError",
    ):
        with pytest.raises(AssertionError, match=r"page\.md:2: the page says"):
            _run_text(f"```python\n{wrong}\n```")


def test_a_claim_that_nothing_checks_is_an_error() -> None:
    """Inside a function, or behind an assignment, a claim would only look like one."""
    with pytest.raises(AssertionError, match="nothing checks it"):
        _run_text("```python\nx = 1  # -> 1\n```")


def test_leaving_a_block_out_needs_a_reason() -> None:
    """`no-run` says why, stands above a block that would run, and is obeyed."""
    _run_text("<!-- no-run: needs a server -->\n```python\n1 / 0\n```")
    with pytest.raises(AssertionError, match="without a reason"):
        _run_text("<!-- no-run: -->\n```python\n1 / 0\n```")
    with pytest.raises(AssertionError, match="would not run anyway"):
        _run_text("<!-- no-run: shell -->\n```sh\nmake\n```")


def test_what_an_example_leaves_behind_is_noticed() -> None:
    """A listener that stays would hear the next page's events."""
    with pytest.raises(AssertionError, match="listener"), nothing_left():
        events.subscribe(print)
    with pytest.raises(AssertionError, match="install"), nothing_left():
        holdfast.install()
    assert not events.listeners


def test_an_example_that_forgets_an_await_fails() -> None:
    """Warnings are errors in examples, the one of a coroutine that was never awaited included."""
    with pytest.raises(AssertionError, match="not awaited"), nothing_left():
        _run_text("```python\nasync def f(): pass\n\nf()\n```")
