"""A policy in nginx's words: what its reverse proxy can do of it, and beside it in comments what it cannot.

1. An attempt is bounded by three timeouts, each of one phase: to connect, between two writes, between two reads. There is none for the
   whole.
2. A failed attempt goes on to the *next server* of the upstream, never to the same entry again; so servers are listed until there is an
   entry for each attempt.
3. `proxy_next_upstream_timeout` says until when another attempt may begin, not when it ends.
4. POST, LOCK and PATCH are repeated only where nothing was sent, unless the user says that all of them may be: then each carries an
   `Idempotency-Key`, the same in all attempts.

Checked against a real nginx in tests/export; docs/nginx.md has what was measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import cast
from zlib import crc32

import holdfast
from holdfast.policy import Policy

Addresses = Sequence[str]

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_ADDRESS = r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})"
# What nginx can be told: it counts milliseconds and failures in 64 bits, and each attempt is a line of its own.
_LONGEST = 1e9  # seconds
_MOST_FAILURES = 10**9
_MOST_ATTEMPTS = 100
_REPEATED = "error timeout http_502 http_503 http_504"


def render(
    policy: Policy,
    *,
    upstreams: Mapping[str, Addresses] | None = None,
    listen: str = "127.0.0.1:8080",
    non_idempotent: bool = False,
) -> str:
    """Write nginx's configuration for a policy.

    Args:
        policy: with a deadline.
        upstreams: name -> addresses ("host:port") of its servers. With one name all requests go there, with several those below
            `/name/`. Without any, only what belongs into a location of the user's own is written.
        listen: where the server listens, "host:port".
        non_idempotent: also repeat POST, LOCK and PATCH after they were sent. The servers must recognize an `Idempotency-Key` that they
            have seen.

    Returns:
        What belongs into nginx's `http` block, or without upstreams into a `location`.

    Raises:
        ValueError: the policy has no deadline, or one or a number of attempts that nginx does not take; or a name or an address is none.
        TypeError: it is no policy.
    """
    if not isinstance(policy, Policy):
        raise TypeError(f"nginx is configured from a Policy, got {policy!r}")
    rules = _Rules(policy, non_idempotent)
    upstreams = upstreams or {}
    for name, addresses in upstreams.items():
        check_upstream(name, addresses)
    parts = [_comment(rules, bool(upstreams))]
    if not upstreams:
        parts.append("\n".join(rules.directives("$request_id", None)))
        return "\n".join(parts) + "\n"
    parts += [_maps(rules), *(_upstream(rules, name, addresses) for name, addresses in upstreams.items())]
    parts.append(_server(rules, list(upstreams), check_address("listen", listen)))
    return "\n".join(parts)


def check_upstream(name: str, addresses: Addresses) -> None:
    """Raise ValueError for what is no upstream."""
    if not re.fullmatch(_NAME, name):
        raise ValueError(f"upstream names are letters, digits, '_', '.' and '-', got {name!r}")
    if not addresses:
        raise ValueError(f"upstream {name!r} needs a server")
    for address in addresses:
        check_address(f"upstream {name}", address)


def check_address(field: str, address: str) -> str:
    """The same address; ValueError for what is none."""
    match = re.fullmatch(_ADDRESS, address)
    if not match or not 0 < int(match[1]) < 65536:
        raise ValueError(f"{field} must be HOST:PORT, got {address!r}")
    return address


class _Rules:
    """What nginx is to do."""

    def __init__(self, policy: Policy, non_idempotent: bool) -> None:
        plan = policy._plan if policy._plan.inner is None else policy._plan.inner
        deadline = policy._plan.deadline
        if deadline is None:
            raise ValueError(f"policy {policy.name!r} has no deadline, and nginx would wait without end: give Policy(deadline=...)")
        self.policy = policy
        self.deadline = deadline
        self.attempt = min(deadline, plan.attempt_timeout or deadline)
        self.attempts = 1 if policy._plan.retry is None else policy._plan.retry.attempts
        for field, value, most in (("deadline", deadline, _LONGEST), ("retry.attempts", self.attempts, _MOST_ATTEMPTS)):
            if value > most:
                raise ValueError(f"policy {policy.name!r}: nginx takes a {field} of at most {most:g}, got {value:g}")
        self.non_idempotent = non_idempotent and self.attempts > 1
        self.breaker = None if plan.circuit is None else plan.circuit.config
        self.variable = f"holdfast_{_word(policy.name)}"

    @property
    def until(self) -> float:
        """Seconds after which no further attempt begins."""
        fits = self.attempts * self.attempt <= self.deadline or self.attempt == self.deadline
        return self.deadline if fits else self.deadline - self.attempt

    @property
    def fails(self) -> str:
        """When a server is left out for a while."""
        if self.breaker is None or self.breaker.consecutive is None:
            return "max_fails=0"
        fails = min(self.breaker.consecutive, _MOST_FAILURES)
        return f"max_fails={fails} fail_timeout={_whole_seconds(cast('float', self.breaker.open_for))}"

    def directives(self, request_id: str, timeout: str | None) -> Iterator[str]:
        """What stands in a location."""
        attempt = _time(self.attempt)
        for phase in ("connect", "send", "read"):
            yield f"proxy_{phase}_timeout {attempt};"
        if self.attempts > 1:
            yield f"proxy_next_upstream {_REPEATED}{' non_idempotent' if self.non_idempotent else ''};"
            yield f"proxy_next_upstream_tries {self.attempts};"
            yield f"proxy_next_upstream_timeout {_time(self.until)};"
        else:
            yield "proxy_next_upstream off;"
        yield f"proxy_set_header X-Request-Id {request_id};"
        if timeout is not None:
            yield f"proxy_set_header X-Request-Timeout-Ms {timeout};"
        if self.non_idempotent:
            yield f"proxy_set_header Idempotency-Key {request_id if timeout is None else f'${self.variable}_key'};"


def _maps(rules: _Rules) -> str:
    lines = [
        "# One id for each request, the same in all its attempts; the client's own, if it sent one.",
        f"map $http_x_request_id ${rules.variable}_id {{",
        "    default $http_x_request_id;",
        '    ""      $request_id;',
        "}",
        "# How long an attempt may take, for a server that stops work nobody waits for.",
        f"map $http_x_request_timeout_ms ${rules.variable}_timeout {{",
        "    default $http_x_request_timeout_ms;",
        f'    ""      {math.ceil(rules.attempt * 1000)};',
        "}",
    ]
    if rules.non_idempotent:
        lines += [
            "# By this the server knows an order that it has seen.",
            f'map "$request_method:$http_idempotency_key" ${rules.variable}_key {{',
            "    default            $http_idempotency_key;",
            f'    "~^(POST|PATCH|LOCK):$" ${rules.variable}_id;',
            "}",
        ]
    return "\n".join(lines) + "\n"


def _upstream(rules: _Rules, name: str, addresses: Addresses) -> str:
    rounds = -(-rules.attempts // len(addresses))
    size = max(64, 2 * rounds * len(addresses))  # about 1 kB a server
    lines = [f"upstream {name} {{", f"    zone {name} {size}k;  # one count of failures for all workers"]
    if rounds > 1:
        lines.append(f"    # Attempts go to the next entry, never to the same: there is one for each of {rules.attempts}.")
    lines += [f"    server {address} {rules.fails};" for _ in range(rounds) for address in addresses]
    return "\n".join([*lines, "}\n"])


def _server(rules: _Rules, names: list[str], listen: str) -> str:
    lines = ["server {", f"    listen {listen};"]
    for name in names:
        path, there = ("/", "") if len(names) == 1 else (f"/{name}/", "/")
        lines += [f"    location {path} {{", f"        proxy_pass http://{name}{there};", "        proxy_set_header Host $host;"]
        lines += [f"        {line}" for line in rules.directives(f"${rules.variable}_id", f"${rules.variable}_timeout")]
        lines.append("    }")
    return "\n".join([*lines, "}\n"])


def _comment(rules: _Rules, whole: bool) -> str:
    name = "".join(letter if letter.isprintable() else "?" for letter in rules.policy.name)
    place = "It belongs into the http block." if whole else "It belongs into a location with a proxy_pass of yours."
    lines = [f"Policy {name}, written by holdfast {holdfast.__version__}. {place}", "", *rules.policy.explain().splitlines()[1:], ""]
    lines.append("What is different here:")
    for difference in _differences(rules, whole):
        lines += wrap(difference, 118, initial_indent="- ", subsequent_indent="  ")
    return "\n".join(f"# {line}".rstrip() for line in lines) + "\n"


def _differences(rules: _Rules, whole: bool) -> Iterator[str]:
    """What nginx cannot do, and what stands for it."""
    yield (
        f"{_time(rules.attempt)} bounds each of connecting, the pause between two writes and that between two reads. A response that "
        "drips is not cut off: for that, whoever calls has a deadline of their own."
    )
    if rules.attempts > 1:
        yield from _of_retries(rules, whole)
    yield from _of_failures(rules, whole)
    plan = rules.policy._plan
    inner = plan if plan.inner is None else plan.inner
    parts = {"bulkhead or adaptive limit": inner.places, "rate limit": inner.pacer, "hedge": plan.hedge, "fallback": plan.fallback}
    missing = [part for part, there in parts.items() if there is not None]
    if missing:
        yield f"Left to the callers' own policies: {', '.join(missing)}."


def _of_retries(rules: _Rules, whole: bool) -> Iterator[str]:
    attempt, deadline = _time(rules.attempt), _time(rules.deadline)
    if rules.attempt == rules.deadline:
        yield f"No attempt timeout is below the deadline of {deadline}, so an attempt that begins late may end as long after it."
    elif rules.until < rules.deadline:
        yield f"No attempt begins after {_time(rules.until)}, so that one of {attempt} ends by the deadline of {deadline}."
    yield "There is no pause between attempts (backoff, jitter): the next server is asked at once."
    retry = rules.policy._plan.retry
    if retry is not None and retry.budget is not None:
        yield f"There is no retry budget: in an outage the servers see up to {rules.attempts} times the requests. The tries are the bound."
    yield "Repeated are errors, timeouts, 502, 503 and 504; not 429 and other 5xx."
    if rules.non_idempotent:
        yield "POST, PATCH and LOCK are repeated too: the servers must recognize an Idempotency-Key that they have seen."
    else:
        yield "POST, PATCH and LOCK are repeated only if nothing was sent; a client's Idempotency-Key changes nothing about that."
    if not whole:
        yield f"Only the next server of the upstream is asked, never the same entry again: list servers until there are {rules.attempts}."


def _of_failures(rules: _Rules, whole: bool) -> Iterator[str]:
    if not whole:
        yield f"Write {rules.fails} at each server: nginx's own max_fails=1 leaves one out for 10 s after a single failure."
    if rules.breaker is None:
        return
    if rules.breaker.consecutive is None:
        yield "There is no breaker: max_fails counts failures and not their share, so a busy server would be left out for a few. It is off."
    else:
        yield (
            "For the breaker stands max_fails. It leaves one entry out, and its failures need not be in a row: each comes within "
            "fail_timeout of the one before. While all are left out, the answer is 502 at once."
        )


def _word(name: str) -> str:
    """A part of a variable's name, another one for each policy. nginx's table of variables takes no long ones."""
    word = re.sub(r"[^a-z0-9]", "_", name.lower())
    return word if word == name and len(word) <= 20 else f"{word[:11]}_{crc32(name.encode(errors='replace')):08x}"


def _time(seconds: float) -> str:
    """`2s`, `1500ms`; never 0, which would mean without end."""
    milliseconds = max(1, round(seconds * 1000))
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"


def _whole_seconds(seconds: float) -> str:
    """fail_timeout knows only these."""
    return f"{max(1, round(min(seconds, _LONGEST)))}s"
