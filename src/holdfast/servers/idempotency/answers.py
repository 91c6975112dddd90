"""Which answers are kept, and in which form. Pure; what comes back from a store is checked, since others may write there.

1. An answer is kept whatever its status, 5xx included, as Stripe does: after an error nobody knows how much of the work was done. A
   transactional store does know: there 5xx is rolled back, and nothing is kept.
2. Not kept are refusals, which come before the work and would only repeat themselves: 401, 403, 407, 409, 425, 429, and any error with
   `Retry-After`, which itself asks to be tried again.
3. Headers are kept but for those of the connection, those that each answer gets anew (`Date`), and `Set-Cookie`: a session has no place
   in a store, and the caller who repeats a request has one.
4. A body that is too large is not kept. The work counts as done all the same, and a repetition is told so (410).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Pairs = Sequence[tuple[str, str]]

_REFUSALS = frozenset({401, 403, 407, 409, 425, 429})

_NOT_KEPT = frozenset(
    {
        "connection",
        "content-length",  # the body says it
        "date",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "server",
        "set-cookie",
        "set-cookie2",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# Servers send no more than some kB of headers; what has more is no answer that anybody would want twice.
HEADERS_LIMIT = 32 * 1024

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_VALUE = re.compile(r"[^\x00\r\n]*")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, as it is kept.

    Args:
        status: 200 to 599.
        reason: what stands behind the status in HTTP/1; may be empty.
        headers: in their order.
        body: None where it was too large to be kept.
    """

    status: int
    reason: str
    headers: Pairs
    body: bytes | None


def is_refusal(status: int, headers: Pairs) -> bool:
    """Whether an answer says that nothing was done (rule 2)."""
    return status in _REFUSALS or (status >= 400 and any(name.lower() == "retry-after" for name, _ in headers))


def is_stream(headers: Pairs) -> bool:
    """Whether the body has no end that anybody should wait for."""
    return any(name.lower() == "content-type" and value.strip().lower().startswith("text/event-stream") for name, value in headers)


def kept_headers(headers: Pairs) -> list[tuple[str, str]]:
    """The headers that are kept (rule 3)."""
    named = {word.strip().lower() for name, value in headers if name.lower() == "connection" for word in value.split(",")}
    return [(name, value) for name, value in headers if name.lower() not in _NOT_KEPT and name.lower() not in named]


def encode(answer: Answer) -> bytes:
    """One line of JSON, then the body."""
    head: dict[str, object] = {"status": answer.status, "reason": answer.reason, "headers": kept_headers(answer.headers)}
    if answer.body is not None:
        head["length"] = len(answer.body)
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + (answer.body or b"")


def decode(kept: bytes) -> Answer:
    """The answer that was kept.

    Raises:
        ValueError: it was not written by `encode`.
    """
    line, _, body = kept.partition(b"\n")
    head = json.loads(line)
    if not isinstance(head, dict):
        raise ValueError("no object")  # noqa: TRY004  (see Raises)
    status, reason, headers, length = head.get("status"), head.get("reason"), head.get("headers"), head.get("length")
    if type(status) is not int or not 200 <= status <= 599:
        raise ValueError("no status")
    if not isinstance(reason, str) or not _VALUE.fullmatch(reason) or not isinstance(headers, list):
        raise ValueError("no headers")
    if length != (len(body) if "length" in head else None) or ("length" not in head and body):
        raise ValueError("another length")
    return Answer(status, reason, list(_checked(headers)), body if length is not None else None)


def _checked(headers: Iterable[object]) -> Iterable[tuple[str, str]]:
    for pair in headers:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError("no header")
        name, value = pair
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _NOT_KEPT:
            raise ValueError("no header that is kept")
        value.encode("latin-1")  # UnicodeEncodeError is a ValueError
        yield name, value
