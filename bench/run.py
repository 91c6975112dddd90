"""All figures, as one table of ratios. `make bench` runs it; README.md says how to read it.

python bench/run.py [--quick] [--only SUBJECT ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import calls
import deadlines
import floors
import importing
import listeners
import memory
import network
import observe
import refused
import threads
from measure import Effort, Figure

SUBJECTS = {
    "calls": calls.figures,
    "deadlines": deadlines.figures,
    "refused": refused.figures,
    "threads": threads.figures,
    "importing": importing.figures,
    "listeners": listeners.figures,
    "memory": memory.figures,
    "network": network.figures,
    "observe": observe.figures,
}
PEERS = ("pyresilience", "tenacity", "pybreaker", "stamina")
QUICK = 0.15
WIDTH = 92


def main() -> int:
    options = _options()
    missing = [name for name in PEERS if not _version(name)]
    if missing:
        print(f"not installed: {', '.join(missing)}; run: {sys.executable} -m pip install -r requirements/bench.txt", file=sys.stderr)
        return 2
    floors.check()
    print(_about())
    print(f"{'what':{WIDTH}} {'measured':>10} {'bar':>10}  held")
    effort = Effort(QUICK if options.quick else 1.0)
    figures: list[tuple[str, Figure]] = []
    for name in options.only or SUBJECTS:
        for figure in SUBJECTS[name](effort):
            figures.append((name, figure))
            print(_row(figure), flush=True)
    broken = [figure for _, figure in figures if not figure.held]
    print(f"\n{len(broken)} not held" if broken else "\nall held")
    if options.json:
        rows = [
            {"subject": name, "what": it.what, "measured": it.measured, "unit": it.unit, "bar": it.bar, "held": it.held}
            for name, it in figures
        ]
        options.json.write_text(json.dumps({"about": _about(), "figures": rows}, indent=2) + "\n", encoding="utf-8")
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="ratios against named floors and peers, in one run")
    parser.add_argument("--quick", action="store_true", help="a seventh of the repeats: rough, to see that it runs")
    parser.add_argument("--only", metavar="SUBJECT", choices=SUBJECTS, action="append", help=f"one of {', '.join(SUBJECTS)}; repeatable")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    return parser.parse_args()


def _about() -> str:
    versions = ", ".join(f"{name} {_version(name)}" for name in PEERS)
    return f"CPython {platform.python_version()}, {versions}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _row(figure: Figure) -> str:
    held = "" if figure.bar is None else "yes" if figure.held else "NO"
    return f"{figure.what:{WIDTH}} {_number(figure.measured, figure.unit):>10} {_number(figure.bar, figure.unit):>10}  {held}"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    digits = 2 if unit == "x" else 1 if unit == " kB" else 0
    return f"{value:.{digits}f}{unit.replace('x', ' x')}"


if __name__ == "__main__":
    sys.exit(main())
