"""Mutation testing of floors 1-3: which changes of the code do the tests not notice?

    python tools/mutation.py                        # all, about half an hour on two cores
    python tools/mutation.py --only breaker,window  # minutes
    python tools/mutation.py --report               # what the last run found, without running

mutmut does the work, in a copy of the project (.mutation), so that nothing that is edited meanwhile disturbs it; this file sets it up
and reports. A survivor that changes nothing observable is argued away in tools/mutation_equivalents.txt. Exit status 1: others survived.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".mutation"
EQUIVALENTS = ROOT / "tools" / "mutation_equivalents.txt"

FILES = (
    *("backoff", "window", "deadlines", "headers", "locks", "outcome", "validation", "holdings", "flow", "lanes", "race"),
    *(
        f"policies/{name}"
        for name in ("retry", "budget", "breaker", "probes", "bulkhead", "places", "adaptive", "ratelimit", "hedge", "fallback")
    ),
)

# The tests that speak about these floors and need neither threads nor real time, so that a failure is the mutant's.
TESTS = [
    "tests/core/policies",
    *(f"tests/core/test_{name}.py" for name in ("backoff", "window", "headers", "errors", "validation", "vectors", "pure")),
    "tests/parity",
]
ARGUMENTS = ["-p", "no:cacheprovider", "-m", "not realtime", "-x"]

# What mutmut writes down for a mutant. 33 and 5: no test runs the function; 24, 36 and such: the time limit.
SURVIVED, UNTESTED, KILLED = (0,), (5, 33, None), (1, 3, 37)


def prepare(files: list[str]) -> None:
    """Copy what mutmut needs, with its configuration."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, WORK / name, ignore=shutil.ignore_patterns("__pycache__"))
    settings = {
        "source_paths": ["src/"],
        "only_mutate": [f"src/holdfast/{file}.py" for file in files],
        "also_copy": ["tests/"],
        "pytest_add_cli_args": ARGUMENTS,
        "pytest_add_cli_args_test_selection": [test for test in TESTS if (ROOT / test).exists()],
        "timeout_multiplier": 10.0,
        "timeout_constant": 2.0,
        "use_git_change_detection": False,
    }
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    project = (ROOT / "pyproject.toml").read_text()
    (WORK / "pyproject.toml").write_text(f"{project}\n[tool.mutmut]\n{table}\n")
    shutil.copy(ROOT / "README.md", WORK)


def run(children: int) -> None:
    """Run mutmut; its progress goes to .mutation/log."""
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(children)]
    print(f"$ {' '.join(command)}   (progress in {WORK.name}/log)", flush=True)
    environment = {**os.environ, "PYTHONPATH": "src", "PYTHONHASHSEED": "0"}
    with (WORK / "log").open("w") as log:
        done = subprocess.run(command, cwd=WORK, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        tail = (WORK / "log").read_text()[-3000:]
        sys.exit(f"mutmut ended with {done.returncode}:\n{tail}")


def verdicts(file: str) -> dict[str, int | None]:
    """The exit status of the tests for each mutant of a file."""
    meta = WORK / "mutants" / "src" / "holdfast" / f"{file}.py.meta"
    found: dict[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"] if meta.exists() else {}
    return found


def change(mutant: str) -> tuple[str, str]:
    """The lines that a mutant takes away and puts in."""
    done = subprocess.run([sys.executable, "-m", "mutmut", "show", mutant], cwd=WORK, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("---", "+++"))]
    old, new = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    return " ".join(old), " ".join(new)


def equivalents() -> Iterator[tuple[re.Pattern[str], str, str]]:
    """Rules of mutation_equivalents.txt: a pattern for the file, one for the old line and one for the new."""
    for block in EQUIVALENTS.read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if len(lines) >= 4 and lines[1].startswith("- ") and lines[2].startswith("+ "):
            yield re.compile(lines[0]), lines[1][2:], lines[2][2:]


def argued_away(file: str, old: str, new: str) -> bool:
    """Whether a rule says that this change cannot be observed. A line between slashes is a pattern."""

    def fits(rule: str, line: str) -> bool:
        return bool(re.search(rule[1:-1], line)) if len(rule) > 2 and rule[0] == rule[-1] == "/" else rule in (line, "*")

    return any(name.fullmatch(file) and fits(minus, old) and fits(plus, new) for name, minus, plus in equivalents())


def report(files: list[str]) -> int:
    """Print the survivors and the score of each file; the number of survivors that nobody argued away."""
    totals: Counter[str] = Counter()
    rows, survivors = [], []
    for file in files:
        counts: Counter[str] = Counter()
        for mutant, status in verdicts(file).items():
            kind = "survived" if status in SURVIVED else "untested" if status in UNTESTED else "killed" if status in KILLED else "timeout"
            if kind in ("survived", "untested"):
                old, new = change(mutant)
                if argued_away(file, old, new):
                    kind = "equivalent"
                else:
                    survivors.append(f"{mutant.removeprefix('holdfast.')} ({kind})\n    - {old}\n    + {new}")
            counts[kind] += 1
        totals += counts
        rows.append((file, counts))
    for survivor in survivors:
        print(survivor)
    print(f"\n{'file':24}{'mutants':>9}{'killed':>8}{'timeout':>9}{'equiv.':>8}{'left':>6}{'score':>8}")
    for file, counts in [*rows, ("all", totals)]:
        of_all = sum(counts.values())
        left = counts["survived"] + counts["untested"]
        noticed = counts["killed"] + counts["timeout"]
        score = f"{100 * noticed / (noticed + left):.1f} %" if noticed + left else "-"
        print(f"{file:24}{of_all:9}{counts['killed']:8}{counts['timeout']:9}{counts['equivalent']:8}{left:6}{score:>8}")
    return len(survivors)


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutation testing of floors 1-3.")
    parser.add_argument("--only", default="", help="names of files, such as breaker,window; all without it")
    parser.add_argument("--report", action="store_true", help="report the last run again")
    parser.add_argument("--children", type=int, default=os.cpu_count() or 1, help="processes at once")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name]
    unknown = [name for name in names if not any(name in (file, file.split("/")[-1]) for file in FILES)]
    if unknown:
        parser.error(f"no such file: {', '.join(unknown)}; there are {', '.join(file.split('/')[-1] for file in FILES)}")
    files = [file for file in FILES if not names or file in names or file.split("/")[-1] in names]
    if importlib.util.find_spec("mutmut") is None:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-r", str(ROOT / "requirements" / "mutation.txt")], check=True)
    if not options.report:
        prepare(files)
        run(options.children)
    left = report(files)
    sys.exit(1 if left else 0)


if __name__ == "__main__":
    main()
