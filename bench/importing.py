"""What `import holdfast` costs, in fresh interpreters, and what it drags in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from measure import Effort, Figure, Timed, fastest

_CLOCK = "import time; began = time.perf_counter()\n{work}\nprint(time.perf_counter() - began)"
_NEW = "import sys; before = set(sys.modules); import holdfast; print(*(set(sys.modules) - before), sep='\\n')"


def figures(effort: Effort) -> Iterator[Figure]:
    ours, floor, both = fastest(
        effort.times(60),
        [
            _import("import holdfast"),
            _import("import dataclasses, typing, threading, enum"),
            _import("import dataclasses, typing, threading, enum, random, inspect, contextvars"),
        ],
    )
    yield Figure("import holdfast / dataclasses + typing + threading + enum", ours / floor, 1.5)
    yield Figure("import holdfast / the same + random + inspect", ours / both)
    loaded = set(_python(_NEW).split())
    foreign = {name for name in loaded if name.partition(".")[0] not in {*sys.stdlib_module_names, "holdfast"}}
    asyncio = {name for name in loaded if name.partition(".")[0] == "asyncio"}
    heavy = {name for name in loaded if name.partition(".")[0] in {"socket", "ssl", "logging", "concurrent", "email", "json"}}
    yield Figure(_named("modules of others that it loads", foreign), len(foreign), 0, unit="")
    yield Figure(_named("modules of asyncio that it loads", asyncio), len(asyncio), 0, unit="")
    yield Figure(_named("modules of socket, ssl, logging, concurrent, email and json that it loads", heavy), len(heavy), unit="")
    yield Figure("modules that it loads in all", len(loaded), unit="")


def _named(what: str, names: set[str]) -> str:
    return f"{what}: {', '.join(sorted(names)[:3])}" if names else what


def _import(statement: str) -> Timed:
    program = _CLOCK.format(work=statement)
    _python(program)  # compiles what is not compiled yet
    return lambda: float(_python(program))


def _python(program: str) -> str:
    return subprocess.run([sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True).stdout
