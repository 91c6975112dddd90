"""`Idempotency`: what users configure, and every decision about a request. No I/O: `wsgi` and `asgi` do what is decided here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, cast

from holdfast.errors import DeadlineExceeded, Rejected, StoreUnavailable
from holdfast.servers.calling import call_theirs
from holdfast.servers.idempotency import answers, keys
from holdfast.servers.idempotency.answers import Answer
from holdfast.servers.idempotency.store import AsyncStore, Full, Held, Interrupted, Record, Running, Store
from holdfast.servers.interfaces import ASGIApp, WSGIApp
from holdfast.servers.problem import CONTENT_TYPE, body_of, reason, retry_after
from holdfast.servers.request import Request
from holdfast.validation import Seconds, count, positive_seconds

C = TypeVar("C")

Caller: TypeAlias = Callable[[Request], "str | Awaitable[str | None] | None"]

REPLAYED = "Idempotent-Replayed"  # the header that Stripe and many others set on an answer that is given again
NOT_STORED = "Idempotency-Stored"  # "false" on an answer that cannot be given again


class Handle:
    """The connection of a request while its transaction is open. What a request leaves running does not find it any more."""

    __slots__ = ("connection",)

    def __init__(self, connection: object | None) -> None:
        self.connection = connection


_handle: ContextVar[Handle | None] = ContextVar("holdfast.idempotency.connection", default=None)


def connection(kind: type[C]) -> C:
    """The database connection of the running request: what is written through it is committed together with the answer.

    Args:
        kind: the class it is of, for example `sqlalchemy.Connection`; it follows from what `SQLStore` was given.

    Raises:
        LookupError: the request has none: its store is not a `SQLStore`, its method is not covered, or the answer has begun already.
        TypeError: it is of another class.
    """
    handle = _handle.get()
    found = None if handle is None else handle.connection
    if found is None:
        raise LookupError("no transaction here: is an Idempotency(SQLStore(...)) around the app, and the method one of its `methods`?")
    if not isinstance(found, kind):
        raise TypeError(f"the request's connection is a {type(found).__qualname__}, not a {kind.__qualname__}")
    return found


class Idempotency:
    """Do once what is asked for several times under one `Idempotency-Key`, and give the first answer again.

    | a request with a key that ... | gets |
    |---|---|
    | is new | the app's answer, which is kept |
    | was answered | that answer, with `Idempotent-Replayed: true` |
    | runs right now | 409, `Retry-After: 1` |
    | stood for another request (method, path, query, body) | 422 |
    | is no key; or is missing, with `required` | 400 |
    | was answered with more than `max_body` | 410: it was done, and the answer is not there any more |
    | was stopped half-way, in a store with `interrupted="refuse"` | 409, without `Retry-After`: nobody knows what was done |

    Args:
        store: where answers are: `MemoryStore`, `RedisStore`, `SQLStore`, or your own.
        required: refuse requests of these methods that bring no key.
        ttl: seconds for which an answer is kept.
        caller: a function of the request that says who asks; None where nobody is authenticated. Each caller has keys of its own. Without
            it, who asks is what the usual headers say (`Authorization`, `Cookie`, `X-API-Key` and their like), and whom the server has
            authenticated itself (`REMOTE_USER`, a client's certificate): requests with other credentials never share a key. For
            `.asgi` it may be async.
        methods: of requests that are covered; those that are idempotent by themselves need no key.
        headers: names of the header with the key; the first that a request has counts.
        lease: seconds that the work may take in a store that leases (`RedisStore`); it is the work's deadline as well.
        max_body: bytes of an answer that are kept; the answer is held back until it is kept, so this much is in memory.
        max_request: bytes of a request's body; a larger one with a key is refused (413), for it has to be compared.
        keeps: a function of status and headers that says whether an answer is kept; see `answers` for the rules without it.
        commits: a function of the status that says whether what was written through `connection` is committed; without it, below 400.

    Raises:
        TypeError: the store or a function is none.
        ValueError: a number out of its range, or no method or header.
    """

    def __init__(
        self,
        store: Store | AsyncStore,
        required: bool = False,
        ttl: Seconds = 86400.0,
        caller: Caller | None = None,
        *,
        methods: Sequence[str] = ("POST", "PATCH"),
        headers: Sequence[str] = ("Idempotency-Key",),
        lease: Seconds = 60.0,
        max_body: int = 1024 * 1024,
        max_request: int = 8 * 1024 * 1024,
        keeps: Callable[[int, answers.Pairs], bool] | None = None,
        commits: Callable[[int], bool] | None = None,
    ) -> None:
        has_claim = callable(getattr(store, "claim", None)) or callable(getattr(store, "aclaim", None))
        if isinstance(cast("object", store), type) or not has_claim:
            raise TypeError(f"Idempotency.store must be a store such as MemoryStore(), got {store!r}")
        for name, function in (("caller", caller), ("keeps", keeps), ("commits", commits)):
            if function is not None and not callable(function):
                raise TypeError(f"Idempotency.{name} must be a function or None, got {function!r}")
        self.store = store
        self.required = required
        self.ttl = positive_seconds("Idempotency.ttl", ttl)
        self.lease = positive_seconds("Idempotency.lease", lease)
        self.caller = caller
        self.methods = frozenset(method.upper() for method in _words("methods", methods))
        self.headers = tuple(_words("headers", headers))
        self.max_body = count("Idempotency.max_body", max_body)
        self.max_request = count("Idempotency.max_request", max_request)
        self._keeps = keeps
        self._commits = commits

    def wsgi(self, app: WSGIApp, /) -> WSGIApp:
        """The app behind it.

        Raises:
            TypeError: the store is for async code only.
        """
        from holdfast.servers.idempotency.wsgi import WsgiIdempotency

        return WsgiIdempotency(self, app)

    def asgi(self, app: ASGIApp, /) -> ASGIApp:
        """The app behind it. A store for blocking code is used in threads."""
        from holdfast.servers.idempotency.asgi import AsgiIdempotency

        return AsgiIdempotency(self, app)

    # What the two kinds of applications ask, in this order.

    def key_of(self, request: Request) -> str | Answer | None:
        """The request's key; None where it brings none and needs none; a refusal."""
        for name in self.headers:
            values = request.headers.all(name)
            if len(values) > 1:
                return refusal(400, "idempotency-key-invalid", f"{name} came more than once.")
            if values:
                try:
                    return keys.parse_key(values[0])
                except ValueError as error:
                    return refusal(400, "idempotency-key-invalid", f"{name} cannot be read: {error}.")
        if self.required:
            return refusal(400, "idempotency-key-missing", f"This operation needs the header {self.headers[0]}.")
        return None

    def who(self, request: Request) -> str | Awaitable[str | None] | None:
        """Who asks."""
        return keys.credentials(request.headers, request.raw) if self.caller is None else call_theirs(self.caller, request)

    def entry(self, request: Request, who: object, key: str, body: bytes) -> tuple[str, str]:
        """Under which key the store has it, and the fingerprint of what is asked for.

        Raises:
            TypeError: `caller` said something that is no text.
        """
        if who is not None and not isinstance(who, str):
            raise TypeError(f"Idempotency.caller must return text or None, got {type(who).__qualname__}")
        # Nobody and somebody without a name are two callers.
        owner = ("nobody",) if who is None else ("somebody", who)
        return keys.digest("key", *owner, "", key), keys.digest(request.method, request.path, request.query, body)

    def unasked(self, away: StoreUnavailable) -> Answer:
        """What a request gets while the store is away: to run it unprotected would break the promise that the key was taken for."""
        return refusal(503, "idempotency-store-unavailable", "The request was not run.", after=away.retry_after or 1.0)

    def instead(self, held: Held, fingerprint: str) -> Answer:
        """What a request gets whose key is taken."""
        if isinstance(held, Full):
            return refusal(503, "idempotency-store-full", "Too many requests with keys run at once.", after=1.0)
        if held.fingerprint and held.fingerprint != fingerprint:
            return refusal(422, "idempotency-key-reused", "This key was used for another request; give each request its own.")
        if isinstance(held, Running):
            return refusal(409, "idempotency-key-in-use", "The first request with this key is still running.", after=1.0)
        if isinstance(held, Interrupted):
            return refusal(
                409,
                "idempotency-outcome-unknown",
                "The first request with this key was stopped; what it did is not known.",
            )
        return self._again(held)

    def _again(self, record: Record) -> Answer:
        try:
            answer = answers.decode(record.answer)
        except ValueError:
            return refusal(500, "idempotency-record-unreadable", "The first answer cannot be read; the request is not run again.")
        if answer.body is None:
            return refusal(
                410,
                "idempotency-answer-not-stored",
                f"The first request with this key was done, with status {answer.status}; its answer was too large to be stored.",
            )
        return Answer(answer.status, answer.reason, [*answer.headers, (REPLAYED, "true")], answer.body)

    def ending(self, answer: Answer) -> Ending:
        """What becomes of a claim whose work was answered."""
        status = answer.status
        commits = status < 400 if self._commits is None else bool(self._commits(status))
        if self._keeps is not None:
            keeps = bool(self._keeps(status, answer.headers))
        elif self.store.transactional and status >= 500:
            keeps = False  # it is rolled back, so it may be run again
        else:
            keeps = not answers.is_refusal(status, answer.headers)
        return Ending(answers.encode(answer) if keeps else None, commits)

    def ending_after(self, error: BaseException) -> Ending | None:
        """What becomes of a claim whose work raised; None to abandon it."""
        if was_stopped(error):
            return None
        if self.store.transactional or isinstance(error, Rejected):
            return Ending(None, False)
        try:
            return self.ending(FAILED)
        except Exception:  # of the user's `keeps` or `commits`; the error itself says more
            return None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a claim ends.

    Args:
        kept: what is kept; None frees the key.
        commits: whether the effects are committed (where they are kept; a free key's are rolled back).
    """

    kept: bytes | None
    commits: bool


def refusal(status: int, code: str, detail: str, after: float | None = None) -> Answer:
    """A problem document as an answer."""
    headers = [("Content-Type", CONTENT_TYPE)]
    if after is not None:
        headers.append(("Retry-After", retry_after(after)))
    return Answer(status, reason(status), headers, body_of(status, code, detail))


def was_stopped(error: BaseException) -> bool:
    """Whether work was cut off, by its deadline, a cancellation, the end of the process: nobody knows how far it came."""
    return isinstance(error, DeadlineExceeded) or not isinstance(error, Exception)


FAILED = refusal(500, "internal-error", "The first request with this key failed.")


def _words(field: str, given: Sequence[str]) -> Iterable[str]:
    words = (given,) if isinstance(given, str) else tuple(given)
    if not words or not all(isinstance(cast("object", word), str) and word for word in words):
        raise ValueError(f"Idempotency.{field} must be one or more names, got {given!r}")
    return words
