"""The floors of docs/design.md: a module imports only from lower floors, and the pure ones do no I/O."""

import ast
import sys
from pathlib import Path

import pytest

import holdfast

ROOT = Path(holdfast.__file__).parent

# Module or package, and its floor. The longest prefix decides.
FLOORS = {
    "errors": 0,
    "outcome": 0,
    "events": 0,
    "records": 0,
    "snapshots": 0,
    "validation": 0,
    "locks": 0,
    "backoff": 1,
    "window": 1,
    "deadlines": 1,
    "headers": 1,
    "priority": 1,
    "policies": 2,
    "flow": 3,
    "holdings": 3,
    "lanes": 3,
    "plan": 3,
    "race": 3,
    "drivers": 4,
    "scope": 5,
    "parts": 5,
    "policy": 5,
    "blocks": 5,
    "fleet": 5,
    "mutex": 5,
    "mutex.redis": 7,  # the stores build on the clients, and are loaded by the scheme of a URL
    "mutex.postgres": 7,
    "net": 5,
    "": 6,  # holdfast itself: the public names
    "clients": 7,
    "servers": 7,
    "observe": 7,
    "export": 7,
    "testing": 7,
    "sim": 7,
    "replay": 8,
    "cli": 9,
    "__main__": 9,
}

# What the pure floors (0 to 3) must not know.
EFFECTS = {"asyncio", "socket", "logging", "redis", "time", "select", "ssl", "subprocess", "trio", "multiprocessing"}


def modules():
    return sorted(ROOT.rglob("*.py"))


def name_of(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(name):
    while name and name not in FLOORS:
        name = name.rpartition(".")[0]
    return FLOORS[name]


def imports(path):
    """Every module that a file imports, wherever in it, except under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                inside = ROOT / Path(*full.split(".")[1:])
                yield full if inside.is_dir() or inside.with_suffix(".py").is_file() else node.module


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_from_its_own_floor_or_lower_ones(path):
    mine = name_of(path)
    for imported in imports(path):
        if imported == "holdfast" or imported.startswith("holdfast."):
            other = imported.removeprefix("holdfast").removeprefix(".")
            assert floor_of(other) <= floor_of(mine), f"{mine} (floor {floor_of(mine)}) imports {other} (floor {floor_of(other)})"


@pytest.mark.parametrize("path", [path for path in modules() if floor_of(name_of(path)) <= 3], ids=name_of)
def test_the_pure_floors_know_no_clock_no_loop_and_no_io(path):
    for imported in imports(path):
        assert imported.split(".")[0] not in EFFECTS, f"{name_of(path)} imports {imported}"
    source = path.read_text()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("random", name) for name in ("random", "uniform", "choice")}, path


@pytest.mark.parametrize("path", [path for path in modules() if floor_of(name_of(path)) <= 6], ids=name_of)
def test_the_core_needs_nothing_but_the_standard_library(path):
    if name_of(path) in ("drivers.trio_backend", "fleet.connections"):
        return  # loaded only where trio runs already, and by `fleet.connect`, which needs an extra and says so
    allowed = set(sys.stdlib_module_names) | {"holdfast", "typing_extensions"}
    for imported in imports(path):
        assert imported.split(".")[0] in allowed, f"{name_of(path)} imports {imported}"


def test_every_module_has_a_floor():
    for path in modules():
        top = name_of(path).split(".")[0]
        assert top in FLOORS, f"{name_of(path)} stands on no floor"
