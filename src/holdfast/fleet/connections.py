"""From a URL to a client of redis-py whose every operation ends at the ambient deadline. redis-py's own retries are off.

    redis://user:password@host:6379/0                  rediss:// for TLS, unix:///path for a socket file
    redis+sentinel://user:password@one:26379,two:26379/service/0
    redis+cluster://user:password@one:6379,two:6379    rediss+sentinel://, rediss+cluster:// for TLS

Options behind `?`: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` and the other `ssl_...` of redis-py, and `sentinel_username` and
`sentinel_password` where the Sentinels have an access list of their own.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from holdfast.net import TcpOptions, connect, wrap_tls

try:
    import redis
    import redis.backoff
    import redis.cluster
    import redis.connection
    import redis.retry
    import redis.sentinel
except ImportError as error:
    raise ImportError("holdfast.fleet needs the extra: pip install 'holdfast[redis]'") from error

_untyped: Any = redis  # its annotations are partial, and wrong where keywords are passed on
errors = _untyped.exceptions

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_PORTS = {"sentinel": 26379}
# urlsplit does not take several hosts where one is an IPv6 address, and its complaints quote them together with the password.
_URL = re.compile(r"(?P<scheme>[A-Za-z+]+)://(?P<netloc>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?", re.DOTALL)
# A subscription is silent for days, and a firewall forgets it without a word.
_OPTIONS = TcpOptions(dead_after=5.0).as_list()


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says.

    Args:
        kind: "single", "sentinel" or "cluster".
        hosts: with their ports; empty for a socket file.
        service: what the Sentinels call the server.
        options: for redis-py's connections.
        sentinel: the same for connections to the Sentinels.
    """

    kind: str
    hosts: tuple[tuple[str, int], ...]
    service: str
    options: dict[str, Any]
    sentinel: dict[str, Any]

    def __repr__(self) -> str:
        where = ",".join(f"{host}:{port}" for host, port in self.hosts) or "a socket file"
        return f"<{self.kind} {where}>"  # and no credentials


def read_url(url: object) -> Address:
    """Take a URL apart.

    Raises:
        ValueError: it is none of ours. The message does not quote it, since there may be a password in it.
    """
    if not isinstance(url, str):
        raise TypeError(f"fleet.connect takes a URL, got {type(url).__name__}")
    parts = _URL.fullmatch(url)
    if parts is None or parts["scheme"].lower() not in _SCHEMES:
        raise ValueError(f"the fleet's URL must begin with one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    scheme, _, kind = parts["scheme"].lower().partition("+")
    query = {name: values[0] for name, values in parse_qs(parts["query"] or "").items()}
    for name in query:
        if name != "db" and not name.startswith(("ssl_", "sentinel_")):
            raise ValueError(f"the fleet's URL has the option {name!r}; known are db, ssl_... and sentinel_...")
    credentials, _, places = parts["netloc"].rpartition("@")
    hosts = () if scheme == "unix" else _hosts(places, _PORTS.get(kind, 6379))
    path = [unquote(part) for part in parts["path"].split("/") if part]
    service = path.pop(0) if kind == "sentinel" and path else ""
    if kind == "sentinel" and not service:
        raise ValueError("the fleet's URL must name the Sentinels' service: redis+sentinel://host:26379/service")
    sentinel = {name.removeprefix("sentinel_"): query.pop(name) for name in tuple(query) if name.startswith("sentinel_")}
    plain = f"{scheme}://{credentials}{'@' if credentials else ''}{'' if scheme == 'unix' else 'host'}"
    if scheme != "unix" and path and (len(path) > 1 or not path[0].isdecimal()):
        raise ValueError("the fleet's URL must end with the number of a database, such as /0, or with its hosts")
    tail = parts["path"] if scheme == "unix" else f"/{'/'.join(path)}"
    try:
        options: dict[str, Any] = _untyped.connection.parse_url(f"{plain}{tail}?{urlencode(query)}")
    except ValueError:
        raise ValueError("the fleet's URL has an option with a value that is none of its kind") from None
    options.pop("host", None)
    if scheme == "rediss" and kind == "sentinel":
        sentinel.update({name: value for name, value in options.items() if name.startswith("ssl_")})
    return Address(kind or "single", hosts, service, options, sentinel)


def _hosts(places: str, port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for place in places.split(","):
        try:
            one = urlsplit(f"//{place}")
            hosts.append((one.hostname or "localhost", port if one.port is None else one.port))
        except ValueError:
            raise ValueError("the fleet's URL must have ports from 0 to 65535 behind its hosts") from None
    return tuple(hosts)


def make_client(address: Address, timeout: float) -> Any:
    """A client: a `redis.Redis` or a `redis.cluster.RedisCluster`. Nothing is connected yet, but to a cluster, whose map is read first.

    Args:
        address: of the server.
        timeout: seconds for each operation of a socket, beside the ambient deadline.
    """
    bounds: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        "protocol": 2,
    }
    options = {**address.options, **bounds}
    tls = options.pop("connection_class", None)
    is_tls = tls is redis.connection.SSLConnection
    if address.kind == "cluster":
        nodes = [_untyped.cluster.ClusterNode(host, port) for host, port in address.hosts]
        options.pop("db", None)
        secure = {"ssl": True} if is_tls else {}
        return _untyped.cluster.RedisCluster(startup_nodes=nodes, **options, **secure)
    if address.kind == "sentinel":
        secure = {"ssl": True} if is_tls else {}
        guards = _untyped.sentinel.Sentinel(list(address.hosts), sentinel_kwargs={**address.sentinel, **bounds, **secure}, **options)
        kind = _ManagedTLS if is_tls else _Managed
        return guards.master_for(address.service, connection_class=kind, **secure)
    if not address.hosts:
        return redis.Redis(connection_pool=_untyped.ConnectionPool(connection_class=redis.connection.UnixDomainSocketConnection, **options))
    host, port = address.hosts[0]
    pool = redis.ConnectionPool(connection_class=_TLS if is_tls else _Plain, host=host, port=port, **options)
    return redis.Redis(connection_pool=pool)


class _Plain(redis.Connection):
    """A connection whose socket obeys the ambient deadline."""

    def _connect(self) -> Any:
        return connect((self.host, self.port), self.socket_timeout, options=_OPTIONS)


class _TLS(redis.connection.SSLConnection):
    """The same over TLS."""

    def _connect(self) -> Any:
        sock = connect((self.host, self.port), self.socket_timeout, options=_OPTIONS)
        try:
            return wrap_tls(sock, self._context(), self.host)
        except BaseException:
            sock.close()
            raise

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.check_hostname = self.check_hostname
        context.verify_mode = self.cert_reqs
        if self.certfile:
            context.load_cert_chain(certfile=self.certfile, keyfile=self.keyfile, password=self.certificate_password)
        if self.ca_certs is not None or self.ca_path is not None or self.ca_data is not None:
            context.load_verify_locations(cafile=self.ca_certs, capath=self.ca_path, cadata=self.ca_data)
        if self.ssl_min_version is not None:
            context.minimum_version = self.ssl_min_version
        if self.ssl_ciphers:
            context.set_ciphers(self.ssl_ciphers)
        return context


class _Managed(redis.sentinel.SentinelManagedConnection, _Plain):
    """A connection to whom the Sentinels say is the master."""


class _ManagedTLS(redis.sentinel.SentinelManagedConnection, _TLS):
    """The same over TLS."""
