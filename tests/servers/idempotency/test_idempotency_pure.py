"""Keys, answers and the store in memory: what is decided without a request."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.servers.idempotency import answers, keys
from holdfast.servers.idempotency.answers import Answer
from holdfast.servers.idempotency.memory import MemoryStore
from holdfast.servers.idempotency.store import Full, Interrupted, Record, Running
from holdfast.testing import FakeClock


@given(st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255))
def test_any_printable_key_survives_its_quotes(key: str) -> None:
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert keys.parse_key(quoted) == key


@pytest.mark.parametrize("text", ['"a", "b"', '"a";x, "b"', '"a";x="1", "b"', '"a";', "a;x", "a,b", '"a";x=1"b"'])
def test_two_keys_are_none(text: str) -> None:
    """WSGI's servers join by commas what came more than once."""
    with pytest.raises(ValueError, match="it must be one string"):
        keys.parse_key(text)


@pytest.mark.parametrize("text", ['"a"', '"a";x', '"a"; x="1, 2"', '"a";x=?1;y=:YQ==:', " a "])
def test_parameters_are_no_part_of_a_key(text: str) -> None:
    assert keys.parse_key(text) == "a"


@given(st.text(max_size=300))
def test_what_comes_as_a_key_is_a_key_or_a_value_error_that_does_not_repeat_it(text: str) -> None:
    try:
        key = keys.parse_key(text)
    except ValueError as error:
        key = str(error)
    assert 1 <= len(key) <= 255
    assert key.isascii()


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_different_parts_have_different_digests(one: list[str], other: list[str]) -> None:
    assert (keys.digest(*one) == keys.digest(*other)) == (one == other)


@given(st.integers(200, 599), st.lists(st.tuples(st.sampled_from(["X-A", "Vary"]), st.text(st.characters(max_codepoint=255)))), st.binary())
def test_an_answer_that_was_kept_comes_back_as_it_was(status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    headers = [(name, value) for name, value in headers if not set("\r\n\0") & set(value)]
    answer = Answer(status, "Reason", headers, body)
    assert answers.decode(answers.encode(answer)) == answer


@given(st.binary(max_size=200))
def test_bytes_of_somebody_else_are_a_value_error(kept: bytes) -> None:
    with pytest.raises(ValueError):
        answers.decode(kept)


def _kept(**changes: object) -> bytes:
    head = {"status": 200, "reason": "OK", "headers": [["X-A", "b"]], "length": 1, **changes}
    return json.dumps(head).encode() + b"\nx"


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "200"},
        {"status": 100},
        {"status": 600},
        {"status": True},
        {"reason": "O\r\nSet-Cookie: a=b"},
        {"reason": None},
        {"headers": {}},
        {"headers": [["X-A"]]},
        {"headers": [["X-A", 1]]},
        {"headers": [["X A", "b"]]},
        {"headers": [["X-A", "b\r\nX: y"]]},
        {"headers": [["X-A", "€"]]},
        {"headers": [["Set-Cookie", "session=planted"]]},
        {"headers": [["Transfer-Encoding", "chunked"]]},
        {"length": 2},
        {"length": None},
    ],
)
def test_an_answer_that_was_tampered_with_is_not_given(changes: dict[str, object]) -> None:
    assert answers.decode(_kept()).body == b"x"
    with pytest.raises(ValueError):
        answers.decode(_kept(**changes))


def test_memory_is_bounded_by_dropping_the_oldest_answers_and_never_what_runs() -> None:
    store = MemoryStore(entries=3)
    runs = store.claim("runs", "f", lease=1, ttl=100)
    for number in range(10):
        claim = store.claim(f"k{number}", "f", lease=1, ttl=100)
        assert claim.keep(b"x" * 10)  # type: ignore[union-attr]
    assert store.held <= 3
    assert isinstance(store.claim("runs", "f", lease=1, ttl=100), Running)
    assert isinstance(store.claim("k9", "f", lease=1, ttl=100), Record)
    assert runs.keep(b"")  # type: ignore[union-attr]
    claims = [store.claim(f"r{number}", "f", lease=1, ttl=100) for number in range(4)]
    assert isinstance(claims[3], Full)


def test_memory_is_bounded_in_bytes() -> None:
    store = MemoryStore(size=100)
    for number in range(10):
        store.claim(f"k{number}", "f", lease=1, ttl=100).keep(b"x" * 30)  # type: ignore[union-attr]
    assert store.held == 3
    assert isinstance(store.claim("k9", "f", lease=1, ttl=100), Record)


def test_memory_forgets_what_is_over_without_being_asked_for_it() -> None:
    with FakeClock() as clock:
        store = MemoryStore()
        for number in range(5):
            store.claim(f"k{number}", "f", lease=1, ttl=10).keep(b"")  # type: ignore[union-attr]
        clock.advance(11)
        store.claim("new", "f", lease=1, ttl=10)
        assert store.held == 1


def test_an_ended_claim_cannot_be_ended_again() -> None:
    store = MemoryStore(interrupted="refuse")
    claim = store.claim("k", "f", lease=1, ttl=10)
    claim.abandon()  # type: ignore[union-attr]
    assert not claim.keep(b"late")  # type: ignore[union-attr]
    assert store.claim("k", "f", lease=1, ttl=10) == Interrupted("f")


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"MemoryStore.entries must be a whole number >= 1, got 0"):
        MemoryStore(entries=0)
    with pytest.raises(ValueError, match=r"MemoryStore.interrupted must be one of repeat, refuse, got 'maybe'"):
        MemoryStore(interrupted="maybe")  # type: ignore[arg-type]
