"""`holdfast fleet`: look at the breakers that a fleet shares, and force them."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from holdfast.fleet.redis import RedisStore

_ORDERS = {"force-open": "forced-open", "force-closed": "forced-closed", "reset": "none"}
_URL = "HOLDFAST_FLEET_URL"
_SECONDS = 5.0


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("action", choices=["status", *_ORDERS], help="what to do")
    parser.add_argument("policy", nargs="*", default=[], help="names of policies; status shows all of them where none is named")
    parser.add_argument("--url", help=f"the store's URL; {_URL} or REDIS_URL in the environment serve as well, and are not seen by others")
    parser.add_argument("--prefix", default="holdfast", help="as given to holdfast.fleet.connect (default: holdfast)")


def run(given: Namespace) -> int:
    """Do it; the exit status is 1 where the store cannot be asked."""
    url = given.url or os.environ.get(_URL) or os.environ.get("REDIS_URL")
    if not url:
        return _complain(f"say where the store is: --url, or {_URL} in the environment")
    if given.action != "status" and not given.policy:
        return _complain(f"say which policy: holdfast fleet {given.action} POLICY")
    try:
        from holdfast.fleet.connections import read_url
        from holdfast.fleet.redis import RedisStore, reason

        store = RedisStore(read_url(url), given.prefix, _SECONDS)
    except (ValueError, ImportError) as error:
        return _complain(str(error))
    from holdfast.scope import deadline

    try:
        with deadline(_SECONDS):
            _act(store, given)
    except Exception as error:
        return _complain(f"the store cannot be asked: {reason(error)}")
    finally:
        store.close()
    return 0


def _act(store: RedisStore, given: Namespace) -> None:
    for policy in given.policy if given.action != "status" else ():
        if not store.status(policy).get("known"):
            _complain(f"no process has told of a policy {policy!r} yet; the order holds for those that come")
        store.force(policy, _ORDERS[given.action])
    rows = [(policy, store.status(policy)) for policy in given.policy or store.policies()]
    if not rows:
        _print("no policy is known here")
    width = max((len(policy) for policy, _ in rows), default=0)
    for policy, status in rows:
        _print(f"{policy:{width}}  {_line(status)}")


def _line(status: dict[str, Any]) -> str:
    if not status.get("known"):
        return "not known"
    alone = f" ({status['shut']} open by itself)" if status["shut"] else ""
    window = f"{status['processes']} processes{alone}, {status['calls']} calls, {status['failures']} failed, {status['slow']} slow"
    retries = f", {status['retries']} retries of {status['requests']}" if status["requests"] else ""
    return f"{_state(status):13}  {window}{retries}"


def _state(status: dict[str, Any]) -> str:
    if status["force"] != "none":
        return str(status["force"])
    if status["state"] == "open":
        return f"open {status['left'] / 1000:.3g} s" if status["left"] else "half-open"
    return str(status["state"])


def _print(line: str, to: TextIO | None = None) -> None:
    (to or sys.stdout).write("".join(letter if letter.isprintable() else "?" for letter in line) + "\n")


def _complain(text: str) -> int:
    _print(f"holdfast fleet: {text}", sys.stderr)
    return 1
