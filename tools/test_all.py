"""Run the tests: everything on the Python of this virtual environment, the core's on every other Python 3.11+ of the machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OTHERS = ("3.11", "3.12", "3.13", "3.14")


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


def run(*command: str) -> None:
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True, cwd=ROOT)


def main() -> None:
    for version, path in other_pythons():
        venv = ROOT / f".venv-{version}"
        python = str(venv / "bin" / "python")
        if not (venv / ".ready").exists():
            run(path, "-m", "venv", "--clear", str(venv))
            run(python, "-m", "pip", "install", "-q", "-e", ".", "-r", "requirements/core.txt")
            (venv / ".ready").touch()
        run(python, "-m", "pytest", "-q", "tests/core", "tests/parity")
    run(sys.executable, "-m", "pytest", "-q")


if __name__ == "__main__":
    main()
