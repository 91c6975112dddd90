"""Making a psycopg connection within a time: parameters, addresses, and a share of the time for each address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_attempts, conninfo_to_dict

from holdfast import errors
from holdfast.clients.postgres.addresses import Answers, names, resolved, with_tcp_options
from holdfast.clients.postgres.psycopg_session import Settings
from holdfast.deadlines import Deadline, ambient, restore
from holdfast.drivers import clock
from holdfast.net import TcpOptions
from holdfast.validation import positive_seconds

# Of psycopg's `connect`; everything else is libpq's.
_PSYCOPG = frozenset({"autocommit", "prepare_threshold", "context", "row_factory", "cursor_factory"})


class Connecting:
    """What is to be connected to, and how long it may take.

    Args:
        settings: of the connection.
        conninfo: a URL or libpq's keywords.
        options: of psycopg's `connect`.

    Raises:
        psycopg.ProgrammingError: libpq does not understand them.
    """

    __slots__ = ("_keywords", "_params", "_settings", "limit")

    def __init__(self, settings: Settings, conninfo: str, options: Mapping[str, Any]) -> None:
        self._settings = settings
        self._keywords = {name: value for name, value in options.items() if name in _PSYCOPG}
        rest = {name: value for name, value in options.items() if name not in _PSYCOPG}
        self._params = with_tcp_options(conninfo_to_dict(conninfo, **rest), TcpOptions(dead_after=settings.dead_after))
        given = self._params.get("connect_timeout")
        within = settings.dead_after if given is None else positive_seconds("connect_timeout", float(given))
        self.limit = self._deadline(within)

    @property
    def names(self) -> list[tuple[str, str]]:
        """Hosts and ports to look up."""
        return names(self._params)

    def attempts(self, answers: Answers) -> Iterator[tuple[Deadline, dict[str, Any]]]:
        """The keyword arguments of each attempt, in turn, and the time that it has: one address that swallows everything must not take
        all of it.
        """
        attempts = conninfo_attempts(resolved(self._params, answers))
        for number, params in enumerate(attempts):
            left = self.limit.remaining(clock.now())
            yield self._deadline(left / (len(attempts) - number)), {**params, **self._keywords}

    def _deadline(self, seconds: float) -> Deadline:
        now, outer = clock.now(), ambient.get()
        name = self._settings.guarding.name
        return Deadline(now + seconds, seconds, name, outer) if outer is None or now + seconds < outer.at else outer

    @contextmanager
    def within(self, limit: Deadline) -> Iterator[None]:
        """Bound a step of connecting.

        Raises:
            psycopg.errors.ConnectionTimeout: the time for connecting is over, though no deadline has passed.
        """
        outer = ambient.get()
        token = ambient.set(limit)
        try:
            yield
        except errors.DeadlineExceeded as cut:
            if limit is outer or cut._source is not limit:
                raise
            raise psycopg.errors.ConnectionTimeout(f"no connection within {limit.budget:.3g} s") from cut
        except OSError as error:  # of the look-up
            raise psycopg.OperationalError(f"failed to resolve host: {error}") from error
        finally:
            restore(token)
