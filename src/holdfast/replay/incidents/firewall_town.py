"""Incident 2, how it is run: both sides of the wire, who lives there, what goes wrong, and what was seen of it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.replay.incidents.firewall_servers import Broker, Valkey, broker
from holdfast.replay.parts.namespaces import Namespaces, Side
from holdfast.replay.parts.process import StartFailed
from holdfast.replay.stage import Stage
from holdfast.replay.watch import Watch

if TYPE_CHECKING:
    from typing import Self

# The article's seconds.
LOCK_TTL = 30.0
# An idle connection is forgotten after this; the article does not say.
IDLE = 15.0
# How long the other faults last, and how soon a receipt is to be there; true seconds, however the replay is scaled.
FAULT, SOON = 4.0, 5.0

# RTO_MIN and RTO_MAX of Linux (include/net/tcp.h), in seconds.
RTO_LEAST, RTO_MOST = 0.2, 120.0

_PACE = 0.05  # of the look at the kernel's timers
_START = 30.0  # a process must have begun within this; a busy machine may lose its first connection to the firewall


@dataclass(frozen=True, slots=True)
class Event:
    """A line that a processor or the mailer wrote."""

    event: str
    order: str
    at: float
    more: dict[str, object]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one order.

    Args:
        asked: when it was placed; seconds of the monotonic clock.
        receipts: when each of its receipts came.
        ran: the longest stretch of work under the lock, in seconds.
        allowed: the lock's seconds.
        felt: when the first stretch of work that met the fault ended, in seconds after `asked`; None where none did.
    """

    asked: float
    receipts: list[float]
    ran: float
    allowed: float
    felt: float | None

    @property
    def delay(self) -> float | None:
        """Seconds to the first receipt."""
        return self.receipts[0] - self.asked if self.receipts else None

    @property
    def outside(self) -> float:
        """Seconds that the work ran outside of its lock."""
        return max(0.0, self.ran - self.allowed)


class Town:
    """Both sides of the wire, and who lives there."""

    def __init__(self, stage: Stage, net: Namespaces, broker: Broker, store: Valkey, kind: str, missing: str) -> None:
        self.stage, self.net, self.broker, self.store, self.kind, self.missing = stage, net, broker, store, kind, missing
        self.ttl = stage.seconds(LOCK_TTL)
        self._environment = {"STREAM_URL" if kind else "AMQP_URL": broker.url, "REDIS_URL": store.url, "LOCK_TTL": str(self.ttl)}
        self.mailer = self.program(net.far, f"holdfast.replay.apps.mailer{kind}", "mailer")

    def program(self, side: Side, module: str, name: str) -> Program:
        """A program of ours on one of the sides."""
        return Program(self.net.command(side, [sys.executable, "-m", module]), name, self.stage.folder, self._environment)

    def processor(self, side: str) -> Program:
        """An order processor: "before" or "after"."""
        return self.program(self.net.near, f"holdfast.replay.apps.{side}.receipts{self.kind}", side)

    def outcome(self, processor: Program, order: str, asked: float) -> Outcome:
        """What became of an order."""
        work = [one for one in processor.events() if one.order == order and one.event in {"worked", "put back"}]
        ran = [float(str(one.more["ran"])) for one in work if one.event == "worked"]
        receipts = [one.at for one in self.mailer.events() if one.event == "receipt" and one.order == order]
        return Outcome(asked, receipts, max(ran, default=0.0), self.ttl, work[0].at - asked if work else None)

    def has_come(self, order: str) -> bool:
        """Whether the customer has the receipt."""
        return any(one.order == order for one in self.mailer.events())


class Program:
    """A process that is told on its standard input and answers in lines of JSON."""

    def __init__(self, command: list[str], name: str, folder: Path, environment: dict[str, str]) -> None:
        self._out, self._log = folder / f"{name}.events", folder / f"{name}.log"
        self._in, theirs = socket.socketpair()
        with self._out.open("wb") as out, self._log.open("wb") as log, theirs:
            # Not through `Process`, which has no input. What it runs in dies with us all the same (`Namespaces.command`).
            self._process = subprocess.Popen(  # noqa: S603  (our own command)
                command, stdin=theirs.fileno(), stdout=out, stderr=log, env={**os.environ, **environment}, start_new_session=True
            )

    def order(self, order: str) -> float:
        """Place an order; when that was."""
        asked = time.monotonic()
        self._in.sendall(f"{order}\n".encode())
        return asked

    def events(self) -> list[Event]:
        """What it has said so far."""
        lines = [json.loads(line) for line in self._out.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [Event(line.pop("event"), line.pop("order"), line.pop("at"), line) for line in lines]

    def check(self) -> None:
        """Raise StartFailed where it has ended by itself, with the end of its log."""
        if self._process.poll() is not None:
            raise StartFailed(f"{self._log.stem} ended:\n{self._log.read_text(errors='replace')[-2000:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._in.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def town(stage: Stage, retries: int) -> Iterator[Town]:
    """Both sides, with the servers and the mailer on the far one.

    Raises:
        Unavailable: this machine has no network namespaces, or neither RabbitMQ nor Redis.
    """
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(Namespaces())
        net.retries(retries)
        stage.tell("the servers start on the far side")
        store = Valkey(net, stage.folder, "store", 6379)
        stack.enter_context(store.process)
        taking, kind, missing = stack.enter_context(broker(net, stage.folder))
        if missing:
            stage.tell(f"no RabbitMQ, so the receipts go through a Redis stream: {missing}")
        place = Town(stage, net, taking, store, kind, missing)
        stack.enter_context(place.mailer)
        yield place


def forgotten(town: Town, side: str, retries: int) -> tuple[Outcome, list[tuple[int, float]]]:
    """One order, then silence until the firewall has forgotten the connection, then another; and the kernel's retransmissions."""
    idle, net, peer = town.stage.seconds(IDLE), town.net, f"{town.net.far.address}:{town.broker.port}"
    net.firewall(idle)
    try:
        with town.processor(side) as processor:
            processor.order(f"{side}-1")
            _wait(lambda: town.has_come(f"{side}-1"), _START, "the first receipt does not come", processor, town.mailer)
            time.sleep(idle * 1.5)
            net.forget(town.broker.port)  # heartbeats and keepalive have kept it alive where there are any: it is to be lost all the same

            order = f"{side}-2"
            asked = processor.order(order)
            seen: dict[int, float] = {}

            def retransmitted() -> None:
                for flow in net.flows(net.near):
                    if flow.peer == peer and flow.unacked and flow.retransmitted:
                        # However late this look comes, the kernel says when it was.
                        seen.setdefault(flow.retransmitted, time.monotonic() - flow.silent - asked)

            with Watch(asked, _PACE, {"retransmitted": retransmitted}):
                _wait(
                    lambda: town.has_come(order), 2 * given_up(retries) + _START, "the second receipt does not come", processor, town.mailer
                )
                time.sleep(2 * SOON / 5)  # a second receipt would come now
            return town.outcome(processor, order, asked), sorted(seen.items())
    finally:
        net.mend()


def faults(town: Town) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    """The other faults: how each begins and ends."""
    net, broker, store = town.net, town.broker, town.store
    return {
        "link down": (net.unplug, net.mend),
        "blackhole route": (net.blackhole, net.mend),
        "broker stopped": (broker.suspend, broker.resume),
        "broker killed": (broker.kill, broker.restart),
        "Redis stopped": (store.suspend, store.resume),
    }


@dataclass(frozen=True, slots=True)
class Both:
    """One fault, felt by both processors at once: how long it lasted, and what became of an order to each."""

    lasted: float
    unprotected: Outcome
    protected: Outcome


def fault(town: Town, before: Program, after: Program, name: str, begin: Callable[[], None], end: Callable[[], None]) -> Both:
    """One fault: an order to each of both processors while it lasts, and what became of them after it."""
    word = name.replace(" ", "-")
    for processor, side in ((before, "before"), (after, "after")):
        warm = f"{side}-{word}-warm"
        processor.order(warm)
        _wait(lambda order=warm: town.has_come(order), _START, f"the receipt before {name} does not come", processor, town.mailer)  # type: ignore[misc]  # mypy does not infer a lambda with a default
    begin()
    began = time.monotonic()
    orders = {"before": f"before-{word}", "after": f"after-{word}"}
    asked = {"before": before.order(orders["before"]), "after": after.order(orders["after"])}
    time.sleep(FAULT)
    end()
    lasted = time.monotonic() - began
    for order in orders.values():
        _wait(lambda order=order: town.has_come(order), 3 * SOON + FAULT + town.ttl, f"no receipt after {name}", before, after, town.mailer)  # type: ignore[misc]  # mypy does not infer a lambda with a default
    time.sleep(0.5)  # a second receipt would come now
    return Both(lasted, town.outcome(before, orders["before"], asked["before"]), town.outcome(after, orders["after"], asked["after"]))


def given_up(retries: int) -> float:
    """Seconds after which the kernel gives a connection up."""
    return kernel_schedule(retries + 1)[-1]


def kernel_schedule(count: int) -> list[float]:
    """When Linux retransmits, in seconds after the first sending: from RTO_LEAST, doubling, at most RTO_MOST apart."""
    moments, wait, now = [], RTO_LEAST, 0.0
    for _ in range(count):
        now += wait
        moments.append(round(now, 1))
        wait = min(2 * wait, RTO_MOST)
    return moments


def _wait(done: Callable[[], bool], seconds: float, otherwise: str, *programs: Program) -> None:
    end = time.monotonic() + seconds
    while not done():
        for program in programs:
            program.check()
        if time.monotonic() > end:
            raise StartFailed(otherwise)
        time.sleep(0.02)
