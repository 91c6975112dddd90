"""Faults on the wire, for tests: a TCP proxy in which things go wrong while it runs, and name look-ups that hang.

with FaultProxy(to=("127.0.0.1", 8000)) as proxy:
    proxy.set(Drip(interval=1.0))
"""

from holdfast.testing.faults.bandwidth import Bandwidth
from holdfast.testing.faults.cut import Cut
from holdfast.testing.faults.dns import StalledResolver, stalled_dns
from holdfast.testing.faults.drip import Drip
from holdfast.testing.faults.endless_headers import EndlessHeaders
from holdfast.testing.faults.fault import Fault
from holdfast.testing.faults.half_close import HalfClose
from holdfast.testing.faults.latency import Latency
from holdfast.testing.faults.proxy import Counts, FaultProxy
from holdfast.testing.faults.refused import Refused
from holdfast.testing.faults.reset import Reset
from holdfast.testing.faults.silence import Silence
from holdfast.testing.faults.tls_stall import TlsStall
from holdfast.testing.faults.trickle_1xx import Trickle1xx
from holdfast.testing.faults.words import parse_fault

__all__ = [
    "Bandwidth",
    "Counts",
    "Cut",
    "Drip",
    "EndlessHeaders",
    "Fault",
    "FaultProxy",
    "HalfClose",
    "Latency",
    "Refused",
    "Reset",
    "Silence",
    "StalledResolver",
    "TlsStall",
    "Trickle1xx",
    "parse_fault",
    "stalled_dns",
]
