"""The key of a request, whose it is, and what request it stands for. Pure; everything here comes from outside.

1. The header is a string as RFC 9651 writes it, `"8e03978e-40d5"` in quotes (draft-ietf-httpapi-idempotency-key-header, 2.1); most
   clients send it without, so a bare word is taken as well. Both are the same key.
2. A key belongs to its caller: two callers with the same key have two entries. Nobody learns what another one keeps there, not even
   that there is something.
3. A key stands for one request: method, path, query and body. Another request under the same key is a misuse, not a repetition.
4. What the store gets are digests, so it learns neither keys nor credentials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

# The length that Stripe documents; a UUID has 36.
LONGEST = 255

# sf-string, RFC 9651, 3.3.3: printable ASCII, with quotes and backslashes escaped; and its parameters (3.1.2), of which none is defined.
_TEXT = r'(?:[ !#-\[\]-~]|\\["\\])*'
_PARAMETER = rf' *; *[a-z*][a-z0-9_.*-]*(?:=(?:"{_TEXT}"|[^ ",;]+))?'
_STRING = re.compile(rf'"({_TEXT})"(?:{_PARAMETER})*', re.ASCII)

# What clients send who know nothing of structured fields: visible ASCII, without what would make it a string or a list.
_BARE = re.compile(r"[!#-+\--:<-\[\]-~]+", re.ASCII)

# Headers that say who asks. `Cookie` is one: a session is in it.
CREDENTIALS = ("authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-auth-token", "x-access-token")


def parse_key(text: str) -> str:
    """The key of an `Idempotency-Key` header.

    Raises:
        ValueError: it is none; the message says why, without repeating it.
    """
    stripped = text.strip(" \t")
    match = _STRING.fullmatch(stripped)
    if match:
        key = re.sub(r"\\(.)", r"\1", match[1])
    elif _BARE.fullmatch(stripped):
        key = stripped
    else:
        raise ValueError("it must be one string in double quotes, or one word of visible ASCII")
    if not 1 <= len(key) <= LONGEST:
        raise ValueError(f"it must have 1 to {LONGEST} characters")
    return key


def credentials(headers: Mapping[str, str], server: Mapping[str, Any]) -> str | None:
    """Who asks, as far as the usual places tell: the same for requests that carry the same credentials; None where they carry none.

    Args:
        headers: of the request.
        server: WSGI's environ or ASGI's scope, where servers say whom they have authenticated themselves.
    """
    found = [f"{name}={headers[name]}" for name in CREDENTIALS if name in headers]
    found += [f"{name}={value}" for name, value in _by_server(server)]
    return digest(*found) if found else None


def _by_server(server: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    if server.get("REMOTE_USER"):
        yield "remote user", server["REMOTE_USER"]
    tls = (server.get("extensions") or {}).get("tls") or {}  # ASGI's extension
    if tls.get("client_cert_chain") or tls.get("client_cert_name"):
        yield "certificate", (tls.get("client_cert_name"), *(tls.get("client_cert_chain") or ()))
    certificate = getattr(server.get("gunicorn.socket"), "getpeercert", lambda _binary: None)(True)
    if certificate:
        yield "certificate", certificate.hex()


def digest(*parts: str | bytes) -> str:
    """SHA-256 of the parts, each with its length, so that no two lists of parts run together."""
    hashed = sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        hashed.update(b"%d:" % len(raw))
        hashed.update(raw)
    return hashed.hexdigest()
