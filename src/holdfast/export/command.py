"""`holdfast export nginx module:policy`: prints a policy in another program's words."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from importlib import import_module
from pathlib import Path

from holdfast.export import nginx
from holdfast.policy import Policy


def add_arguments(parser: ArgumentParser) -> None:
    """What the command takes."""
    programs = parser.add_subparsers(dest="program", required=True, metavar="PROGRAM", help="nginx")
    one = programs.add_parser(
        "nginx", help="nginx's reverse proxy: timeouts and retries", description="print a policy as nginx's configuration"
    )
    one.add_argument("policy", metavar="MODULE:POLICY", type=load, help="where the policy is, like shop.clients:billing")
    one.add_argument(
        "--upstream",
        metavar="NAME=HOST:PORT",
        type=upstream,
        action="append",
        default=[],
        help="a server; repeat it, with the same name for the servers of one upstream. Without any, only a location's lines are printed",
    )
    one.add_argument("--listen", metavar="HOST:PORT", type=_address, default="127.0.0.1:8080", help="where nginx listens (%(default)s)")
    one.add_argument(
        "--non-idempotent",
        action="store_true",
        help="also repeat POST, PATCH and LOCK, each with an Idempotency-Key by which the servers recognize it",
    )


def run(given: Namespace) -> int:
    """Print it."""
    upstreams: dict[str, list[str]] = {}
    for name, address in given.upstream:
        upstreams.setdefault(name, []).append(address)
    try:
        text = nginx.render(given.policy, upstreams=upstreams, listen=given.listen, non_idempotent=given.non_idempotent)
    except ValueError as error:
        sys.stderr.write(f"holdfast export nginx: {error}\n")
        return 2
    sys.stdout.write(text)
    return 0


def load(text: str) -> Policy:
    """The policy of `module:name`; modules of the current folder are found too.

    Raises:
        ArgumentTypeError: there is none.
    """
    module, _, path = text.partition(":")
    if not module or not path:
        raise ArgumentTypeError(f"must be MODULE:POLICY, got {text!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except Exception as error:  # whatever the user's module raises
        raise ArgumentTypeError(f"cannot load {text!r}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Policy):
        raise ArgumentTypeError(f"{text!r} is no Policy but {found!r}")
    return found


def upstream(text: str) -> tuple[str, str]:
    """`NAME=HOST:PORT` as a pair.

    Raises:
        ArgumentTypeError: it is not.
    """
    name, _, address = text.partition("=")
    try:
        nginx.check_upstream(name, [address])
    except ValueError as error:
        raise ArgumentTypeError(f"must be NAME=HOST:PORT, got {text!r} ({error})") from error
    return name, address


def _address(text: str) -> str:
    try:
        return nginx.check_address("it", text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
