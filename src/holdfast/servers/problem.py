"""Refusals as `application/problem+json` (RFC 9457). They tell what to do about it, and nothing about the inside."""

from __future__ import annotations

import json
import math
from http import HTTPStatus

CONTENT_TYPE = "application/problem+json"


def body_of(status: int, code: str, detail: str) -> bytes:
    """The document: what is wrong in words, and a code for programs."""
    document = {"type": "about:blank", "title": reason(status), "status": status, "code": code, "detail": detail}
    return json.dumps(document).encode() + b"\n"


def reason(status: int) -> str:
    """What stands behind a status in HTTP/1."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def retry_after(seconds: float) -> str:
    """A `Retry-After` header: whole seconds, rounded up, at least 1."""
    return str(max(1, math.ceil(min(seconds, 86400.0))))
