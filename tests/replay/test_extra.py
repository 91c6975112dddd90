"""`pip install 'holdfast[replay]'` brings what the replay's code imports."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def distributions(extra: str) -> set[str]:
    """The names of what an extra asks for, through the extras that it names."""
    found: set[str] = set()
    for wanted in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]:
        name, inside = re.match(r"([\w.-]+)(?:\[([\w,]+)\])?", wanted).groups()
        found |= set().union(*map(distributions, inside.split(","))) if name == "holdfast" else {normal(name)}
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_extra_has_what_is_imported():
    brought, known = distributions("replay"), packages_distributions()
    missing = set()
    for file in (ROOT / "src/holdfast/replay").rglob("*.py"):
        for name in (
            imported(ast.parse(file.read_text())) - sys.stdlib_module_names - {"holdfast", "markupsafe"}
        ):  # the latter is Jinja's own
            if not {normal(one) for one in known.get(name, [name])} & brought:
                missing.add(name)
    assert not missing


def imported(tree: ast.Module) -> set[str]:
    names = {one.name for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}
