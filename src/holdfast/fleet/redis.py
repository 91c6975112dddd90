"""The store: a Redis or Valkey server, by redis-py. One round of a policy is one call of a script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha1
from time import monotonic, sleep
from typing import Any

from holdfast.fleet import protocol
from holdfast.fleet.connections import Address, errors, make_client

# What to say of an error. Its own text is not told: it is the server's, or has an address in it.
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (errors.AuthenticationError, "the server does not know the user or the password"),
    (errors.ReadOnlyError, "the server is read-only"),
    (errors.OutOfMemoryError, "the server has no memory left"),
    (errors.BusyLoadingError, "the server is loading its data"),
    (errors.ClusterDownError, "the cluster is down"),
    (errors.TimeoutError, "no answer in time"),
    (TimeoutError, "no answer in time"),
    (errors.ConnectionError, "no connection"),
    (OSError, "no connection"),
    (errors.ClusterError, "the cluster cannot serve it now"),
    (errors.RedisClusterException, "the cluster cannot be reached"),
)


def reason(error: BaseException) -> str:
    """Why the store cannot be asked, in words of ours."""
    if is_forbidden(error):
        return "the server does not permit it to the user"
    return next((text for kind, text in _REASONS if isinstance(error, kind)), f"{type(error).__name__} from the store")


def is_forbidden(error: BaseException) -> bool:
    """Whether the server's access list is the reason."""
    in_script = isinstance(error, errors.ResponseError) and "ACL failure in script" in str(error)
    return in_script or isinstance(error, errors.NoPermissionError)


class RedisStore:
    """What the fleet shares, in one server, behind Sentinels, or in a cluster. Every method blocks until the ambient deadline at most.

    Args:
        address: where it is.
        prefix: of all keys, and of the channel.
        timeout: seconds for one operation of a socket.
        parts: replacements of the scripts' parts, for tests that bring their own clock.
    """

    def __init__(self, address: Address, prefix: str, timeout: float, parts: Mapping[str, str] | None = None) -> None:
        self._address = address
        self._prefix = prefix
        self._timeout = timeout
        self._made: Any = None
        self._listener: Any = None
        self._channel = protocol.channel(prefix)
        self._scripts = {name: protocol.script(name, **(parts or {})) for name in ("round", "force", "status")}
        self._hashes = {name: sha1(text.encode()).hexdigest() for name, text in self._scripts.items()}  # noqa: S324  (the server's choice)

    @property
    def _client(self) -> Any:
        if self._made is None:
            self._made = make_client(self._address, self._timeout)
        return self._made

    def rounds(self, questions: Sequence[Mapping[str, object]]) -> list[object]:
        """One round for each policy; answers in the same order, an exception where there is none.

        Raises:
            Exception: there was no connection, or it broke.
        """
        if self._address.kind == "cluster" or len(questions) == 1:
            return [self._attempt("round", question) for question in questions]
        pipe = self._client.pipeline(transaction=False)
        for question in questions:
            pipe.evalsha(self._hashes["round"], *self._arguments(question))
        answers: list[object] = pipe.execute(raise_on_error=False)
        for place, answer in enumerate(answers):
            if isinstance(answer, errors.NoScriptError):
                answers[place] = self._attempt("round", questions[place])
        return answers

    def ping(self) -> list[object]:
        """Ask whether the server is there, where there is nothing else to ask; no answers.

        Raises:
            Exception: it is not.
        """
        self._client.ping()
        return []

    def force(self, policy: str, force: str, age: float = 0.0) -> object:
        """Force a breaker of the fleet, or reset it, unless somebody has said otherwise since; the answer is the state that holds now.

        Args:
            policy: its name.
            force: "forced-open", "forced-closed", or "none" to reset it.
            age: seconds since the order was given.
        """
        return self._run("force", {"policy": policy, "force": force, "age": round(age * 1000)})

    def status(self, policy: str) -> dict[str, Any]:
        """What the store knows of a policy, as plain data; milliseconds for times."""
        answer = json.loads(self._run("status", {"policy": policy}))
        return answer if isinstance(answer, dict) else {}

    def policies(self) -> list[str]:
        """The names of all policies that the store knows, sorted. It walks through all keys of the server."""
        names = set()
        for key in self._client.scan_iter(match=f"{{{_literally(self._prefix)}:*}}:breaker", count=1000):
            name = protocol.policy_of(self._prefix, key.decode(errors="replace"))
            if name is not None:
                names.add(name)
        return sorted(names)

    def _attempt(self, script: str, question: Mapping[str, object]) -> object:
        try:
            return self._run(script, question)
        except errors.ResponseError as error:  # the server lives, and one policy's keys do not keep the others from their round
            return error

    def _run(self, script: str, question: Mapping[str, object]) -> Any:
        arguments = self._arguments(question)
        try:
            return self._client.evalsha(self._hashes[script], *arguments)
        except errors.NoScriptError:  # the first time, after a restart, or on another server
            return self._client.eval(self._scripts[script], *arguments)

    def _arguments(self, question: Mapping[str, object]) -> Iterable[object]:
        names = protocol.keys(self._prefix, str(question["policy"]))
        return [len(names), *names, json.dumps(question), self._channel]

    # Being told of changes.

    @property
    def listening(self) -> bool:
        """Whether changes are told here."""
        return self._listener is not None

    def listen(self) -> None:
        """Subscribe to changes, where that is not so yet."""
        if self._listener is None:
            listener = self._client.pubsub(ignore_subscribe_messages=True)
            listener.subscribe(self._channel)
            self._listener = listener

    def changes(self, seconds: float) -> list[str]:
        """Wait this long for changes, and tell whose; what comes after the first is only taken if it is there already.

        Raises:
            Exception: the connection broke; then nobody listens any more.
        """
        listener = self._listener
        names: list[str] = []
        if listener is None:
            sleep(seconds)
            return []
        end = monotonic() + seconds
        try:
            while len(names) < _MOST:
                left = end - monotonic()
                message = listener.get_message(timeout=max(0.0, left) if not names else 0.0)
                if message is None and (names or left <= 0):
                    break
                if message is not None and isinstance(message.get("data"), bytes):
                    names.append(message["data"].decode(errors="replace"))
        except BaseException:
            self.deafen()
            raise
        return names

    def deafen(self) -> None:
        """Listen no more."""
        listener, self._listener = self._listener, None
        if listener is not None:
            _quietly(listener.close)

    def close(self) -> None:
        """Give back the connections."""
        self.deafen()
        client, self._made = self._made, None
        if client is not None:
            _quietly(client.close)
            pool = getattr(client, "connection_pool", None)
            if pool is not None:
                _quietly(pool.disconnect)


_MOST = 1000  # messages at once; whoever sends more than that is none of us


def _quietly(close: Any) -> None:
    with suppress(Exception):  # what is closed is of no more use, whatever it says
        close()


def _literally(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "*?[]\\^-" else letter for letter in text)
