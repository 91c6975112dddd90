"""A TCP proxy in which things go wrong as they are told to; see docs/faults.md."""

from __future__ import annotations

import signal
import sys
import threading
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from holdfast.testing.faults.fault import Fault
from holdfast.testing.faults.proxy import FaultProxy
from holdfast.testing.faults.words import FAULTS, parse_fault


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.epilog = f"faults: {', '.join(FAULTS)}"
    parser.add_argument("--listen", type=_listen, default=("127.0.0.1", 0), metavar="HOST:PORT", help="default: 127.0.0.1 and a free port")
    parser.add_argument("--to", type=_to, metavar="HOST:PORT", help="the server; without it, faults answer by themselves")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of all that is drawn, default 0")
    parser.add_argument("faults", type=_fault, nargs="*", metavar="FAULT", help="like drip=1.0 or latency=100ms,jitter=20ms")


def run(given: Namespace) -> int:
    """Run until a signal; the exit status."""
    over = threading.Event()
    before = {number: signal.signal(number, lambda *_: over.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with FaultProxy(to=given.to, listen=given.listen, faults=given.faults, seed=given.seed) as proxy:
            host, port = proxy.address
            _say(f"listening on {f'[{host}]' if ':' in host else host}:{port}")
            over.wait()
        counts = proxy.counts
        _say(f"{counts.connections} connections, {counts.up} bytes up, {counts.down} bytes down")
    except OSError as error:
        sys.stderr.write(f"holdfast faults: cannot start: {error}\n")
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _fault(text: str) -> Fault:
    try:
        return parse_fault(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _listen(text: str) -> tuple[str, int]:
    return _address(text, lowest=0)


def _to(text: str) -> tuple[str, int]:
    return _address(text, lowest=1)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ArgumentTypeError(f"must be a whole number >= 0, got {text!r}")
    return int(text)


def _address(text: str, *, lowest: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and lowest <= int(port) <= 65535):
        raise ArgumentTypeError(f"must be HOST:PORT with a port in [{lowest}, 65535], got {text!r}")
    return host, int(port)
