"""The command line: finds the command, and hands it its arguments.

A command is a module with `add_arguments(parser)` and `run(given) -> exit status`. It is imported only when it is called.
"""

from __future__ import annotations

import sys
from argparse import REMAINDER, SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn, Protocol, cast

import holdfast

# name -> its module, and what it does
_COMMANDS = {
    "export": ("holdfast.export.command", "print a policy as the configuration of another program"),
    "faults": ("holdfast.testing.faults.command", "pass TCP connections on, and make things go wrong with them, until Ctrl-C or SIGTERM"),
    "fleet": ("holdfast.fleet.command", "look at the breakers that a fleet shares, and force them"),
    "replay": ("holdfast.replay.command", "play five incidents on real processes, without holdfast and with it, and write a report"),
}


class Command(Protocol):
    """What the module of a command must have."""

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
    told = "\n".join(f"  {name:<8} {summary}" for name, (_, summary) in _COMMANDS.items())
    parser = _Parser(
        prog="holdfast",
        usage="holdfast [-h] [--version] COMMAND ...",
        description=f"holdfast on the command line.\n\ncommands:\n{told}\n\n`holdfast COMMAND --help` tells more.",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"holdfast {holdfast.__version__}")
    parser.add_argument("command", nargs="?", choices=sorted(_COMMANDS), metavar="COMMAND", help=SUPPRESS)
    parser.add_argument("arguments", nargs=REMAINDER, help=SUPPRESS)
    given = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    if given.command is None:
        parser.error(f"name a command: {', '.join(_COMMANDS)}; `holdfast --help` says what each does")
    module, summary = _COMMANDS[given.command]
    command = cast("Command", import_module(module))
    own = _Parser(prog=f"holdfast {given.command}", description=summary)
    command.add_arguments(own)
    return command.run(own.parse_args(given.arguments))
