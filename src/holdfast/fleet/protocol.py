"""What a process and the store say to each other: names of keys, questions and answers. No I/O.

A question is a flat object of numbers and short words, in JSON. The answer is checked as if a stranger had written it: whatever is
not of its kind and range is `Malformed`, and none of it is used. Times on the wire are whole milliseconds, here they are seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

# Of one policy, in the order in which the scripts have them. The braces put them into one slot of a cluster.
KEYS = ("breaker", "calls", "members", "seen", "bad", "shut", "probes", "budget", "check")

# What each script is made of. `clock` is apart, so that a test can bring its own time.
PARTS = ("clock", "values", "counts", "breaker", "rules", "budget")

WHY = {
    "": "the fleet's state",
    "failures": "too many of the fleet's calls failed",
    "slow": "too many of the fleet's calls were slow",
    "rows": "failures in a row in most of the fleet's processes",
    "probe": "a probe of the fleet failed",
    "probes": "the fleet's probes succeeded",
    "reset": "reset for the fleet",
    "forced": "forced for the fleet",
}
FORCES = ("none", "forced-open", "forced-closed")

_LARGEST = 2**53
_LONGEST = 10_000  # characters of an answer; ours have a few hundred
_SPECIAL = {"%": "%25", "{": "%7B", "}": "%7D"}  # a brace in a name must not end the part that chooses the slot


class Malformed(Exception):
    """An answer that no script of ours gives. The message says what is wrong, and quotes nothing."""


def keys(prefix: str, policy: str) -> list[str]:
    """The keys of one policy."""
    return [f"{{{prefix}:{_escaped(policy)}}}:{name}" for name in KEYS]


def channel(prefix: str) -> str:
    """Where changes of state are told."""
    return f"{prefix}:changes"


def policy_of(prefix: str, key: str) -> str | None:
    """The policy whose breaker's key this is; None where it is none."""
    head, tail = f"{{{prefix}:", "}:breaker"
    if not (key.startswith(head) and key.endswith(tail)):
        return None
    name = key[len(head) : -len(tail)]
    for character, escape in reversed(_SPECIAL.items()):
        name = name.replace(escape, character)
    return name


def _escaped(name: str) -> str:
    for character, escape in _SPECIAL.items():
        name = name.replace(character, escape)
    return name.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair is no text for a server


def script(name: str, **instead: str) -> str:
    """The source of a script; `instead` replaces one of its parts."""
    folder = resources.files("holdfast.fleet") / "scripts"
    return "\n".join(instead.get(part) or (folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*PARTS, name))


def milliseconds(seconds: float) -> int:
    """Seconds as the store counts them; no span is 0."""
    return max(1, round(seconds * 1000))


@dataclass(frozen=True, slots=True)
class FleetState:
    """The fleet's breaker, as a process knows it.

    Args:
        generation: grows with each change; 0 where nothing is known yet.
        state: "closed" or "open".
        ends: monotonic seconds of this process, when it begins to probe.
        pause: seconds for which it was opened.
        why: a word of `WHY`.
        force: one of `FORCES`.
        stamp: grows whenever somebody forces or resets it; 0 where nobody did.
    """

    generation: int = 0
    state: str = "closed"
    ends: float = 0.0
    pause: float = 0.0
    why: str = ""
    force: str = "none"
    stamp: int = 0


@dataclass(frozen=True, slots=True)
class Lent:
    """What the fleet says of a budget: how many more retries it lends, and the fleet's counts."""

    lent: int
    calls: int
    retries: int
    left: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a round brought. Counts of the fleet are over the window."""

    state: FleetState | None
    probes: int
    calls: int
    failures: int
    slow: int
    processes: int
    budget: Lent | None
    forgotten: bool
    ignored: str


class _Reader:
    """An object of an answer, field by field."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise Malformed("it is no object")
        self._fields = value

    def whole(self, field: str) -> int:
        value = self._fields.get(field)
        # cjson has one kind of number, and writes 3 as 3 or 3.0.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _LARGEST or value != int(value):
            raise Malformed(f"{field} is no whole number")
        return int(value)

    def word(self, field: str, allowed: object) -> str:
        value = self._fields.get(field)
        if not isinstance(value, str) or value not in allowed:  # type: ignore[operator]  # any container of words
            raise Malformed(f"{field} is none of its words")
        return value

    def text(self, field: str) -> str:
        value = self._fields.get(field)
        return "".join(letter for letter in value[:200] if letter.isprintable()) if isinstance(value, str) else ""

    def flag(self, field: str) -> bool:
        return self._fields.get(field) is True

    def inner(self, field: str) -> _Reader | None:
        return _Reader(self._fields[field]) if field in self._fields else None


def read(text: object, now: float, open_for_max: float) -> Answer:
    """Check an answer.

    Args:
        text: what came.
        now: monotonic seconds.
        open_for_max: the longest pause that this process believes.

    Raises:
        Malformed: it is not one of ours.
    """
    whole = _open(text)
    breaker, budget = whole.inner("breaker"), whole.inner("budget")
    return Answer(
        state=None if breaker is None else _state(breaker, now, open_for_max),
        probes=0 if breaker is None else breaker.whole("lent"),
        calls=0 if breaker is None else breaker.whole("calls"),
        failures=0 if breaker is None else breaker.whole("failures"),
        slow=0 if breaker is None else breaker.whole("slow"),
        processes=whole.whole("processes"),
        budget=None if budget is None else Lent(*(budget.whole(field) for field in ("lent", "calls", "retries", "left"))),
        forgotten=whole.flag("forgotten"),
        ignored=whole.text("ignored"),
    )


def read_state(text: object, now: float, open_for_max: float) -> FleetState:
    """Check the answer to an order. Arguments and errors are those of `read`."""
    return _state(_open(text), now, open_for_max)


def _open(text: object) -> _Reader:
    if not isinstance(text, (bytes, str)) or len(text) > _LONGEST:
        raise Malformed("it is no text of a usual length")
    try:
        return _Reader(json.loads(text))
    except (ValueError, RecursionError):
        raise Malformed("it is not JSON") from None


def _state(breaker: _Reader, now: float, open_for_max: float) -> FleetState:
    return FleetState(
        generation=breaker.whole("generation"),
        state=breaker.word("state", ("closed", "open")),
        ends=now + min(breaker.whole("left") / 1000, open_for_max),
        pause=min(breaker.whole("pause") / 1000, open_for_max),
        why=breaker.word("why", WHY),
        force=breaker.word("force", FORCES),
        stamp=breaker.whole("stamp"),
    )
