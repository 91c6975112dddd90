"""The command line: finds the command, and hands it its arguments.

A command is a module with `SUMMARY`, `add_arguments(parser)` and `run(given) -> exit status`. It is imported only when it is called.
"""

from __future__ import annotations

import sys
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn, Protocol, cast

_COMMANDS = {
    "export": "holdfast.export.command",
    "faults": "holdfast.testing.faults.command",
    "fleet": "holdfast.fleet.command",
    "replay": "holdfast.replay.command",
}


class Command(Protocol):
    """What the module of a command must have."""

    SUMMARY: str

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what the command takes. A `type` reports bad text as ArgumentTypeError."""

    def run(self, given: Namespace) -> int:
        """Do it; the exit status."""
        ...


class _Parser(ArgumentParser):
    """Reports bad input in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: its name and what it takes; None for those of the process.

    Returns:
        The exit status: 0, or the command's own.

    Raises:
        SystemExit: after help, with status 0, and after bad input, with status 2 and one line on stderr.
    """
    parser = _Parser(prog="holdfast", description="holdfast on the command line; `holdfast COMMAND --help` tells more")
    parser.add_argument("command", choices=sorted(_COMMANDS), metavar="COMMAND", help=", ".join(sorted(_COMMANDS)))
    parser.add_argument("arguments", nargs=REMAINDER, help="what the command takes")
    given = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    command = cast("Command", import_module(_COMMANDS[given.command]))
    own = _Parser(prog=f"holdfast {given.command}", description=command.SUMMARY)
    command.add_arguments(own)
    return command.run(own.parse_args(given.arguments))
