"""What a replay prints: as it runs and at its end, to a terminal, to a log, in any locale."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.replay.report import terminal

HERE = Path(__file__).parent
SCRIPT = """
import made_up, time
from holdfast.replay.report import terminal
with terminal.Progress() as progress:
    progress.incident("1. Slow [bold]provider[/bold]")
    progress.step("starting \\x1b]0;title\\x07 nginx")
    progress.step("load, unprotected")
    progress.done("1 of 2 claims held")
terminal.claims(made_up.replay())
terminal.say("report: /a/" + "long/" * 60 + "report.html")
"""


def printed(**environment: str) -> str:
    """What the script prints where there is no terminal."""
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM"}}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=HERE,
        env={**kept, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stdout.decode(environment.get("PYTHONIOENCODING", "utf-8"))


def shown(**environment: str) -> str:
    """What the script sends to a terminal."""
    ours, its = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=HERE,
        env={**kept, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
        stdout=its,
        stderr=its,
    )
    os.close(its)
    read = b""
    try:
        while more := os.read(ours, 65536):
            read += more
    except OSError:  # Linux says EIO when the other side is gone
        pass
    os.close(ours)
    assert process.wait(30) == 0, read.decode()
    return read.decode()


def test_in_a_log_every_step_is_a_plain_line():
    lines = printed().splitlines()
    assert lines[0] == "1. Slow [bold]provider[/bold]"
    assert lines[1] == "  starting \ufffd]0;title\ufffd nginx"
    assert lines[2] == "  load, unprotected"
    assert re.fullmatch(r"  1 of 2 claims held \(\d+ s\)", lines[3])
    assert "\x1b" not in "".join(lines)


def test_every_claim_and_every_part_left_out_is_there_with_words_and_not_only_colour():
    text = printed()
    assert "✓ held" in text
    assert "✗ not held" in text
    assert "at most 500 ms at p99.99" in text
    assert "2 of 3 claims held" in text
    assert "not run: incident 2: the firewall: needs network namespaces" in text
    assert "not run: incident 1, memory limits: need root" in text
    assert text.count("x" * 10) >= 3, "what is too long for its column goes on in the next line"


def test_a_path_is_not_wrapped():
    assert "long/" * 60 + "report.html\n" in printed()


def test_a_terminal_gets_colour_and_a_line_that_changes_unless_it_says_no():
    assert "\x1b[1;31m" in shown()
    plain = shown(NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain)
    assert "✗ not held" in plain
    assert "\x1b[?25h" in plain, "the cursor is back"
    assert "\x1b" not in shown(TERM="dumb")


def test_a_locale_of_ascii_ends_nothing():
    text = printed(PYTHONIOENCODING="ascii")
    assert "NOT HELD" in text
    assert "+--" in text


def test_interrupted_work_leaves_no_changing_line(capsys: pytest.CaptureFixture[str]):
    def interrupted() -> None:
        with terminal.Progress() as progress:
            progress.incident("1. Title")
            progress.step("waiting")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    terminal.say("afterwards")
    assert capsys.readouterr().out.splitlines()[-1] == "afterwards"
