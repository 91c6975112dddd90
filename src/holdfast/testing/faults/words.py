"""Faults in words, for the command line: `drip=1.0`, `latency=100ms,jitter=20ms`, `cut,where=body`."""

from __future__ import annotations

from dataclasses import fields

from holdfast.testing.faults.bandwidth import Bandwidth
from holdfast.testing.faults.cut import Cut
from holdfast.testing.faults.drip import Drip
from holdfast.testing.faults.endless_headers import EndlessHeaders
from holdfast.testing.faults.fault import Fault
from holdfast.testing.faults.half_close import HalfClose
from holdfast.testing.faults.latency import Latency
from holdfast.testing.faults.refused import Refused
from holdfast.testing.faults.reset import Reset
from holdfast.testing.faults.silence import Silence
from holdfast.testing.faults.tls_stall import TlsStall
from holdfast.testing.faults.trickle_1xx import Trickle1xx

# The word, the fault, and the field that a value right behind the word is for.
FAULTS: dict[str, tuple[type[Fault], str | None]] = {
    "bandwidth": (Bandwidth, "rate"),
    "cut": (Cut, "after"),
    "drip": (Drip, "interval"),
    "endless-headers": (EndlessHeaders, "interval"),
    "half-close": (HalfClose, "after"),
    "latency": (Latency, "delay"),
    "refused": (Refused, None),
    "reset": (Reset, "after"),
    "silence": (Silence, "after"),
    "tls-stall": (TlsStall, None),
    "trickle-1xx": (Trickle1xx, "interval"),
}


def parse_fault(text: str) -> Fault:
    """Read a fault: a word, `=` and the value of its main field, and more fields as `,name=value`.

    Raises:
        ValueError: it is not known, lacks a field, has one too many, or one is out of its range.
    """
    head, *rest = text.split(",")
    word, given, value = head.partition("=")
    if word not in FAULTS:
        raise ValueError(f"unknown fault {word!r}, known are {', '.join(FAULTS)}")
    fault, main = FAULTS[word]
    known = {field.name for field in fields(fault)}
    values: dict[str, object] = {}
    if given and main is None:
        raise ValueError(f"{word} takes no value, got {value!r}")
    if given and main is not None:
        values[main] = _value(value)
    for part in rest:
        name, equals, value = part.partition("=")
        if not equals or name not in known:
            raise ValueError(f"{word} takes {', '.join(sorted(known)) or 'no fields'} as name=value, got {part!r}")
        if name in values:
            raise ValueError(f"{word} has {name} twice")
        values[name] = _value(value)
    try:
        return fault(**values)
    except TypeError:  # the only one that keywords checked above can raise
        raise ValueError(f"{word} needs a value: {word}={main.upper() if main else ''}") from None


def _value(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
