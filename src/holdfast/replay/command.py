"""`holdfast replay`: play the incidents, show the claims, write the report."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.replay.report.terminal import Progress
    from holdfast.replay.results import Incident, Replay, Skipped

# Times are divided by this, so that 500 ms of the article are 50 ms here: well above what a busy machine of two cores adds by itself.
SCALE = 10.0

INTERRUPTED = 130  # what a shell says of a command that Ctrl-C ended


def add_arguments(parser: ArgumentParser) -> None:
    """Which incidents, and where to."""
    from holdfast.replay import incidents

    known = incidents.numbers()

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) not in known:
            raise ArgumentTypeError(f"an incident must be one of {', '.join(map(str, known))}, got {text!r}")
        return int(text)

    parser.add_argument(
        "incidents", nargs="*", type=number, metavar="N", help=f"which ones, of {', '.join(map(str, known))}; all without one"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("replay-out"), metavar="DIR", help="where report.html and replay.json go (%(default)s)"
    )
    parser.add_argument("--seed", type=_seed, default=1, metavar="N", help="of arrivals, service times and faults (%(default)s)")
    parser.add_argument("--real-time", action="store_true", help=f"the incidents' true times, {SCALE:g} times as long")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON here and not into DIR")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"a seed must be a whole number from 0, got {text!r}")
    return int(text)


def run(given: Namespace) -> int:
    """Play.

    Returns:
        0 if every claim of every incident held; 1 if one did not or an incident could not be played; 2 if nothing could begin; 130 after
        Ctrl-C or SIGTERM. Whichever it is, no process and no folder of the replay is left.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with contextlib.ExitStack() as places:
            try:
                for file in (given.out / "report.html", given.json or given.out / "replay.json"):
                    places.enter_context(_place(file))
            except OSError as error:
                print(f"holdfast replay: cannot write there: {error}", file=sys.stderr)  # noqa: T201
                return 2
            return _play(given)
    except KeyboardInterrupt:
        print("holdfast replay: interrupted; nothing is left running", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("holdfast"):
            raise
        print(f"holdfast replay needs its extra (there is no {missing.name}): pip install 'holdfast[replay]'", file=sys.stderr)  # noqa: T201
        return 2


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the next one would come amid the ending of what runs
    raise KeyboardInterrupt


@contextlib.contextmanager
def _place(file: Path) -> Iterator[None]:
    """The folder of a file that is to be written at the end, tried now; what was made of it is gone again where nothing was written.

    Raises:
        OSError: it cannot be written.
    """
    missing = [folder for folder in file.parents if not folder.exists()]
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _play(given: Namespace) -> int:
    from holdfast.replay import incidents
    from holdfast.replay.parts.process import Folder
    from holdfast.replay.report import terminal
    from holdfast.replay.report.page import write
    from holdfast.replay.results import Replay

    started, began = datetime.now().astimezone().isoformat(timespec="seconds"), time.monotonic()
    scale = 1.0 if given.real_time else SCALE
    played: list[Incident] = []
    skipped: list[Skipped] = []
    with terminal.Progress() as progress, Folder("replay") as folder:
        # What processes of a machine share: another replay at the same time must not be counted in.
        os.environ["HOLDFAST_RUN_DIR"] = str(folder)
        machine = _machine()
        for number in sorted(set(given.incidents)) or incidents.numbers():
            _one(number, given.seed, scale, folder, progress, played, skipped)
    replay = Replay(
        seed=given.seed,
        scale=scale,
        incidents=played,
        started=started,
        took=round(time.monotonic() - began, 1),
        machine=machine,
        skipped=skipped,
    )
    terminal.claims(replay)
    _write(replay, given)
    write(replay, given.out / "report.html")
    terminal.say(f"report: {given.out / 'report.html'}")
    return 0 if replay.held and not skipped else 1


def _one(number: int, seed: int, scale: float, folder: Path, progress: Progress, played: list[Incident], skipped: list[Skipped]) -> None:
    from holdfast.replay import incidents
    from holdfast.replay.parts.process import StartFailed, Unavailable
    from holdfast.replay.results import Skipped
    from holdfast.replay.stage import Stage

    script = incidents.script(number)
    progress.incident(f"{number}. {script.TITLE}")
    own = folder / f"incident-{number}"
    own.mkdir(mode=0o755)
    try:
        incident = script.play(Stage(seed=seed, scale=scale, folder=own, tell=progress.step))
    except (Unavailable, StartFailed) as why:
        skipped.append(Skipped(part=f"incident {number}: {script.TITLE}", reason=str(why)))
        progress.done(f"cannot run here: {why}" if isinstance(why, Unavailable) else f"ended early: {why}")
        return
    played.append(incident)
    held = sum(claim.held for claim in incident.claims)
    progress.done(f"{held} of {len(incident.claims)} claims held")


def _write(replay: Replay, given: Namespace) -> None:
    import json

    path = given.json or given.out / "replay.json"
    half = path.with_name(path.name + ".part")
    half.write_text(json.dumps(replay.plain(), indent=1, allow_nan=False) + "\n")
    half.rename(path)


def _machine() -> dict[str, str]:
    """What it runs on; before the first incident, since a busy machine is the first thing to look at where a claim did not hold."""
    return {
        "cores": str(os.cpu_count()),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }
