"""A quick incident, for tests of the command. Run as a program it is `holdfast replay` with it as incidents 1, 2 and 3."""

import os
import sys
import time
from pathlib import Path

from holdfast.replay import incidents
from holdfast.replay.parts.process import Process, Unavailable
from holdfast.replay.results import Chart, Claim, Incident, Series

TITLE = "A quick one"


def play(stage):
    """What happens is told by QUICK_MODE: "held", "failed", "unavailable", "error", or "long", which starts a process and waits."""
    mode = os.environ.get("QUICK_MODE", "held")
    if mode == "unavailable":
        raise Unavailable("there is no broker here; install it with: apt-get install broker")
    if mode == "start failed once" and not (stage.folder.parent / "tried").exists():
        (stage.folder.parent / "tried").touch()
        with Process(["sh", "-c", "echo cannot bind; exit 1"], name="server", folder=stage.folder, ready=lambda: False):
            pass
    if mode == "error":
        raise ZeroDivisionError("a fault of the replay itself")
    if mode == "long":
        with Process([sys.executable, "-c", "import time; time.sleep(60)"], name="sleeper", folder=stage.folder) as sleeper:
            Path(os.environ["QUICK_PIDS"]).write_text(f"{sleeper.pid} {stage.folder}")
            time.sleep(60)
    figures = {"p99_ms": stage.random("p99").uniform(1.0, 2.0), "scale": stage.scale}
    return Incident(
        number=1,
        title=TITLE,
        story="It happened quickly.",
        runs={"unprotected": figures, "protected": figures},
        charts=[Chart(title="A line", unit="ms", kind="line", series=[Series(name="a", run="protected", points=[(0.0, 1.0), (1.0, 2.0)])])],
        claims=[Claim(text="It is quick", bar="at most 2 ms", measured="1 ms", held=mode == "held")],
    )


if __name__ == "__main__":
    sys.modules["holdfast.replay.incidents.quick"] = sys.modules["__main__"]
    incidents._FILES.clear()
    incidents._FILES.update({1: "quick", 2: "quick", 3: "quick"})
    from holdfast.cli import main

    sys.exit(main(["replay", *sys.argv[1:]]))
