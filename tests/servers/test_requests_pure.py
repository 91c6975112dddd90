"""What is decided about a request without any server: its route, its deadline, how long it has waited, how important it is."""

import math

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from holdfast import AdaptiveLimit, Bulkhead, Policy
from holdfast.priority import CRITICAL, NORMAL, SHEDDABLE
from holdfast.servers import Admission, Deadline, QueueAge, Requires, wsgi
from holdfast.servers.asgi import Shield
from holdfast.servers.deadline import UNBOUNDED
from holdfast.servers.incoming import timeout_of_environ, timeout_of_scope, waited, waited_by_scope
from holdfast.servers.routes import Routes


def routes(*prefixes):
    return Routes("routes", {prefix: prefix for prefix in prefixes}, lambda field, value: value)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/", "/"),
        ("/other", "/"),
        ("/checkout", "/checkout"),
        ("/checkout/", "/checkout"),
        ("/checkout/42", "/checkout"),
        ("/checkouts", "/"),
        ("/checkout/pay", "/checkout/pay/"),
        ("/checkout/pay/now/at/once", "/checkout/pay/"),
        ("/checkout/payment", "/checkout"),
        ("//checkout", "/checkout"),
        ("///////////////////////////checkout//pay", "/checkout/pay/"),
        ("/CHECKOUT", "/"),
        ("", "/"),
        ("*", "/"),
    ],
)
def test_the_longest_prefix_of_whole_segments_decides(path, found):
    known = routes("/", "/checkout", "/checkout/pay/")
    assert known.find(path)[1] == found


def test_without_an_entry_for_all_a_path_may_have_none():
    assert routes("/a").find("/b") is None
    assert routes().find("/") is None


def test_a_path_of_thousands_of_segments_costs_no_more_than_the_longest_prefix():
    known = routes("/", "/a/b")
    assert known.find("/a/b" + "/x" * 100_000)[1] == "/a/b"
    assert known.find("/" * 100_000)[1] == "/"


@pytest.mark.parametrize("prefix", ["checkout", "", 5, None])
def test_a_prefix_begins_with_a_slash(prefix):
    with pytest.raises(ValueError, match='prefixes that begin with "/"'):
        Deadline({prefix: 1.0})


NOW = 1_700_000_000.5


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        # nginx "t=${msec}", Heroku, Apache "%t", a load balancer's nanoseconds.
        ("t=1700000000.000", 0.5),
        ("1700000000000", 0.5),
        ("t=1700000000000000", 0.5),
        ("1700000000000000000", 0.5),
        (" t=1700000000 ", 0.5),
        # In the future, hours ago, and what is no time at all.
        ("t=1700000009", 0.0),
        ("t=1699000000", 0.0),
        ("t=0", 0.0),
        ("t=-1", 0.0),
        ("t=nan", 0.0),
        ("t=inf", 0.0),
        ("t=1e9", 0.0),
        ("t=", 0.0),
        ("", 0.0),
        ("t=1700000000,t=1700000000", 0.0),
        ("t=99999999999999999999999999999999", 0.0),
        ("t=\uff11700000000", 0.0),  # a digit of another script
        ("9" * 100_000, 0.0),
    ],
)
def test_a_stamp_tells_a_wait_in_any_of_its_forms_and_nothing_where_it_is_none(stamp, seconds):
    assert waited([stamp], NOW) == pytest.approx(seconds, abs=1e-6)


def test_of_several_stamps_the_longest_wait_counts():
    assert waited(["t=1700000000.4", "junk", "t=1700000000.0"], NOW) == pytest.approx(0.5)


@given(st.text())
def test_no_stamp_makes_a_wait_that_is_negative_or_longer_than_an_hour(stamp):
    assert 0.0 <= waited([stamp], NOW) <= 3600.0


def scope(**headers):
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x_request_timeout_ms": "200"}, 0.2),
        ({"grpc_timeout": "3S"}, 3.0),
        ({"x_envoy_expected_rq_timeout_ms": "50", "grpc_timeout": "3S"}, 0.05),
        ({"x_request_timeout_ms": "-5"}, None),
        ({"x_request_timeout_ms": "junk", "grpc_timeout": "1m"}, 0.001),
    ],
)
def test_the_callers_timeout_is_the_least_that_can_be_read(headers, seconds):
    assert timeout_of_scope(scope(**headers)) == seconds
    assert timeout_of_environ({f"HTTP_{name.upper()}": value for name, value in headers.items()}) == seconds


def test_a_repeated_timeout_header_counts_each_time():
    assert timeout_of_environ({"HTTP_X_REQUEST_TIMEOUT_MS": "900,200"}) == 0.2
    assert timeout_of_scope({"headers": [(b"x-request-timeout-ms", b"900"), (b"x-request-timeout-ms", b"200")]}) == 0.2
    assert timeout_of_scope({"headers": [(b"x-request-timeout-ms", b"900, 200")]}) == 0.2
    assert waited_by_scope({"headers": [(b"x-request-start", b"t=1700000000, t=1700000000.25")]}, lambda: NOW) == 0.5


@pytest.mark.parametrize(
    ("path", "asked", "budget"),
    [
        ("/", None, 1.0),
        ("/", 0.2, 0.2),
        ("/", 9.0, 1.0),
        ("/reports", None, 20.0),
        ("/reports", 30.0, 20.0),
        ("/stream", None, 30.0),
        ("/stream", 1e12, 30.0),
        ("/", 0.0, 0.0),
    ],
)
def test_a_request_gets_the_least_of_its_route_its_caller_and_the_maximum(path, asked, budget):
    part = Deadline({"/": 1.0, "/reports": "20s", "/stream": math.inf}, max_deadline=30)
    assert part.budget(path, asked)[1] == budget


def test_a_route_that_nobody_bounds_gets_what_a_header_says_and_no_more_than_the_maximum():
    assert Deadline({"/a": 1.0}).budget("/b", None)[1] == UNBOUNDED
    assert Deadline({"/a": 1.0}).budget("/b", 1e15)[1] == UNBOUNDED
    assert Deadline({"/a": 1.0}, max_deadline=5.0).budget("/b", 60.0)[1] == 5.0


@pytest.mark.parametrize("value", [0, -1, math.nan, "soon", True])
def test_a_deadline_that_is_none_is_refused(value):
    for part in (Deadline, QueueAge):
        with pytest.raises(ValueError, match="deadline"):
            part(value)
        with pytest.raises(ValueError, match=r"deadline\['/x'\]"):
            part({"/x": value})
        with pytest.raises(ValueError, match="max_deadline"):
            part(1.0, max_deadline=value)


@pytest.mark.parametrize("value", ["billing", {"/x": "billing"}, {"/x": ["billing"]}, {"/x": 5}])
def test_what_a_route_requires_are_policies(value):
    with pytest.raises(TypeError, match=r"polic"):
        Requires(value)


def test_one_policy_needs_no_list():
    Requires({"/x": Policy("billing")})


@pytest.mark.parametrize("part", ["admission", "idempotency", "readiness"])
def test_a_shield_takes_parts_only(part):
    with pytest.raises(TypeError, match=rf"Shield\.{part} must be a part"):
        Shield(lambda: None, **{part: 5})


@pytest.mark.parametrize(
    ("shield", "app", "kind"),
    [(Shield, 5, "ASGI"), (wsgi.Shield, 5, "WSGI"), (Shield, lambda environ, start_response: [], "ASGI"), (wsgi.Shield, FastAPI(), "WSGI")],
)
def test_a_shield_takes_an_application_of_its_kind(shield, app, kind):
    with pytest.raises(TypeError, match=rf"^Shield\.app must be an application of {kind}, which takes \(.*\), got "):
        shield(app)


def level(admission, path="/", header=None, peer="203.0.113.7"):
    return admission.level(path, str, path, header, peer)


def test_a_routes_priority_is_lowered_by_anybody_and_raised_by_nobody_from_outside():
    admission = Admission(priority={"/": "normal", "/buy": "critical"})
    assert level(admission) == NORMAL
    assert level(admission, "/buy") == CRITICAL
    assert level(admission, "/buy", "sheddable") == SHEDDABLE
    assert level(admission, header="critical") == NORMAL
    assert level(admission, header="CRITICAL ") == NORMAL
    assert level(admission, header="junk") == NORMAL


@pytest.mark.parametrize(
    ("trusted", "peer", "raised"),
    [
        (True, "203.0.113.7", True),
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["10.0.0.0/8"], "203.0.113.7", False),
        (["10.0.0.0/8", "::1"], "::1", True),
        (["10.0.0.0/8"], None, False),
        (["10.0.0.0/8"], "", False),
        (["10.0.0.0/8"], "not an address", False),
        ([], "10.1.2.3", False),
    ],
)
def test_a_trusted_peer_may_raise_it(trusted, peer, raised):
    assert level(Admission(trusted=trusted), "/", "critical", peer) == (CRITICAL if raised else NORMAL)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("critical,sheddable", SHEDDABLE),
        ("sheddable, critical", SHEDDABLE),
        ("critical,junk", CRITICAL),
        ("critical," * 100_000 + "sheddable", SHEDDABLE),
        ("critical sheddable", NORMAL),
        ("\x00critical", NORMAL),
        ("cr\u0130tical", NORMAL),
        (",,,", NORMAL),
        ("", NORMAL),
    ],
)
def test_a_priority_that_came_more_than_once_is_the_least_important_of_them(header, found):
    assert level(Admission(trusted=True), header=header) == found


def test_a_function_of_the_request_may_say_the_priority():
    admission = Admission(priority=lambda request: "critical" if request == "/vip" else "sheddable")
    assert level(admission, "/vip") == CRITICAL
    assert level(admission, "/") == SHEDDABLE
    with pytest.raises(ValueError, match=r"Admission\.priority must be one of"):
        level(Admission(priority=lambda request: "urgent"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"limit": 0}, ValueError, r"Admission\.limit must be a whole number >= 1"),
        ({"limit": {"/a": -1}}, ValueError, r"Admission\.limit\['/a'\]"),
        ({"limit": "many"}, TypeError, r"must be a number, a Bulkhead or an AdaptiveLimit"),
        ({"queue": -1}, ValueError, r"Admission\.queue"),
        ({"wait": -1}, ValueError, r"Admission\.wait"),
        ({"priority": "urgent"}, ValueError, r"Admission\.priority must be one of critical, normal, sheddable"),
        ({"trusted": "10.0.0.0/8"}, TypeError, r"Admission\.trusted"),
        ({"trusted": ["nonsense"]}, ValueError, "nonsense"),
    ],
)
def test_bad_settings_of_admission_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        Admission(**arguments)


def test_each_prefix_is_a_group_of_its_own_and_the_rest_is_not_limited():
    admission = Admission(limit={"/reports": 2, "/search": Bulkhead(5, queue=1, wait=0.1), "/buy": AdaptiveLimit(initial=7)})
    assert admission.group("/other") is None
    assert {name: group["limit"] for name, group in admission.snapshot().items()} == {"/reports": 2, "/search": 5, "/buy": 7}


@pytest.mark.parametrize("limit", [Bulkhead(5, queue=1, wait=0.1), AdaptiveLimit(), {"/": Bulkhead(2, across="host")}])
@pytest.mark.parametrize("given", [{"queue": 5}, {"wait": 0.1}])
def test_a_queue_that_would_not_count_is_refused(limit, given):
    with pytest.raises(ValueError, match=r"Admission\.queue and wait go with a limit that is a number"):
        Admission(limit=limit, **given)
