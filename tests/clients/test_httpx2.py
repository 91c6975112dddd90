"""httpx2 behind policies: httpx's tests, with httpx2 wherever they say httpx."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2

from holdfast.clients.httpx2 import Client

tests = Path(__file__).with_name("test_httpx.py")
source = re.sub(r"\b_?httpx\b", lambda found: found[0] + "2", tests.read_text(encoding="utf-8").replace("_is_httpx_", "_is_httpx2_"))
exec(compile(source, str(tests), "exec"))  # two copies by hand would drift apart

assert issubclass(Client, httpx2.Client)
