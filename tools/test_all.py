"""Run the tests: everything on the Python of this virtual environment, the core's on every other Python 3.11+ of the machine.

Each folder of tests is a part, in a process of its own. Two parts run at a time, since most of their time is spent waiting; `JOBS=1` has
them run one after the other. What a part printed is shown when it has ended.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OTHERS = ("3.11", "3.12", "3.13", "3.14")
JOBS = int(os.environ.get("JOBS", min(2, os.cpu_count() or 1)))


@dataclass(frozen=True)
class Part:
    """Commands that follow each other until one fails."""

    name: str
    commands: list[list[str]]

    def passed(self) -> bool:
        """Run them, and print what they printed."""
        began = time.monotonic()
        for command in self.commands:
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
            sys.stdout.buffer.write(done.stdout)
            if done.returncode:
                break
        print(f"== {self.name}: {'FAILED' if done.returncode else 'passed'} after {time.monotonic() - began:.0f} s", flush=True)
        return not done.returncode


def parts_of_this_python() -> list[Part]:
    places: dict[Path, list[str]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        places.setdefault(file.parent.relative_to(ROOT), []).append(str(file.relative_to(ROOT)))
    return [Part(str(place), [[sys.executable, "-m", "pytest", "-q", *files]]) for place, files in places.items()]


def part_of_another(version: str, path: str) -> Part:
    venv = ROOT / f".venv-{version}"
    python = str(venv / "bin" / "python")
    ready = venv / ".ready"
    commands = [[python, "-m", "pytest", "-q", "tests/core", "tests/parity"]]
    if not ready.exists():
        commands = [
            [path, "-m", "venv", "--clear", str(venv)],
            [python, "-m", "pip", "install", "-q", "-e", ".", "-r", "requirements/core.txt"],
            ["touch", str(ready)],
            *commands,
        ]
    return Part(f"the core on Python {version}", commands)


def other_pythons() -> list[tuple[str, str]]:
    """Version and path of every further Python that runs and can make environments."""
    mine = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = []
    for version in OTHERS:
        names = [shutil.which(f"python{version}"), *map(str, sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))]
        for path in filter(None, names):
            probe = [path, "-c", "import sys, ensurepip, venv; print('%d.%d' % sys.version_info[:2])"]
            done = subprocess.run(probe, capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout.strip() == version != mine:
                found.append((version, path))
                break
    return found


def main() -> int:
    parts = [*parts_of_this_python(), *(part_of_another(*other) for other in other_pythons())]
    print(f"{len(parts)} parts, {JOBS} at a time", flush=True)
    with ThreadPoolExecutor(JOBS) as pool:
        failed = [part.name for part, good in zip(parts, pool.map(Part.passed, parts), strict=True) if not good]
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
