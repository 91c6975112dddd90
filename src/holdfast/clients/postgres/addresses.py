"""libpq's parameters as this package sets them: addresses that were looked up under the deadline, and TCP options."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from holdfast.clients.postgres.liveness import Place
from holdfast.net import TcpOptions
from holdfast.net.dns import AddressInfo, is_address

# Of a host by name: what was looked up.
Answers = Mapping[tuple[str, str], list[AddressInfo]]


def names(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The hosts and ports that have to be looked up: libpq would do it itself, and block for as long as the resolver likes."""
    if params.get("hostaddr"):
        return []
    return [(host, port) for host, port in _hosts(params) if _is_name(host)]


def resolved(params: Mapping[str, Any], answers: Answers) -> dict[str, Any]:
    """The parameters with an address for each name; the name stays, for the server's certificate."""
    if not answers:
        return dict(params)
    every = [
        (host, str(address), port)
        for host, port in _hosts(params)
        for address in ([info[4][0] for info in answers[host, port]] if _is_name(host) else [host if is_address(host) else ""])
    ]
    hosts, addresses, ports = zip(*every, strict=True)
    return {**params, "host": ",".join(hosts), "hostaddr": ",".join(addresses), "port": ",".join(ports)}


def with_tcp_options(params: Mapping[str, Any], options: TcpOptions) -> dict[str, Any]:
    """The parameters with what makes libpq notice a peer that has vanished; what the user gave stays."""
    keepalive = {name: value for _, name, value in options.as_list()}
    ours: dict[str, Any] = {"keepalives": 1}
    for key, option in (("keepalives_idle", "TCP_KEEPIDLE"), ("keepalives_interval", "TCP_KEEPINTVL"), ("keepalives_count", "TCP_KEEPCNT")):
        if hasattr(socket, option):
            ours[key] = keepalive[getattr(socket, option)]
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        ours["tcp_user_timeout"] = keepalive[socket.TCP_USER_TIMEOUT]
    return {**ours, **params}


def place_of(fileno: int) -> Place | None:
    """Where the other side of a connected socket is."""
    try:
        with socket.socket(fileno=os.dup(fileno)) as sock:
            return sock.family, sock.getpeername()
    except OSError:  # closed meanwhile
        return None


def _hosts(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    hosts = str(params.get("host") or os.environ.get("PGHOST", "")).split(",")
    ports = str(params.get("port") or os.environ.get("PGPORT", "")).split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    return list(zip(hosts, (port or "5432" for port in ports), strict=False))


def _is_name(host: str) -> bool:
    return bool(host) and not host.startswith(("/", "@")) and not is_address(host)
