"""`python -m holdfast.replay.report FILE.json [-o FILE.html]`: draws a report again, from the JSON file of a replay."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from holdfast.replay.results import Replay


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, draw, and say where; 2 after one line on stderr where the file is not a replay's or the page cannot be written."""
    parser = ArgumentParser(prog="python -m holdfast.replay.report", description="Draw a replay's report from its JSON file.")
    parser.add_argument("file", type=Path, metavar="FILE.json", help="what `holdfast replay --json` wrote")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE.html", help="the report; by default report.html beside the JSON file")
    given = parser.parse_args(arguments)
    out: Path = given.out or given.file.with_name("report.html")
    try:
        replay = Replay.from_plain(json.loads(given.file.read_text(encoding="utf-8")))
        from holdfast.replay.report.page import write

        write(replay, out)
    except (OSError, ValueError, ImportError) as error:
        print(f"{parser.prog}: {given.file}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(out)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
