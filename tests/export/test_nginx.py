"""What `holdfast export nginx` writes, checked by a real nginx and by what the servers behind it saw."""

import http.client
import time

import pytest
from upstream import Upstream

from holdfast import Backoff, Breaker, Budget, Bulkhead, Fallback, Hedge, Policy, RateLimit, Retry
from holdfast.cli import main
from holdfast.export.nginx import render
from holdfast.replay.parts.nginx import Nginx, program
from holdfast.replay.parts.process import Folder, free_port

pytestmark = pytest.mark.realtime

# nginx does not set a timer anew that would move by less than 300 ms, so shorter times than this say little about its rules.
ATTEMPT = 0.4


@pytest.fixture(autouse=True)
def nginx_is_here():
    program()


def billing(**parts):
    usual = {"deadline": 2.0, "attempt_timeout": ATTEMPT, "retry": Retry(attempts=3)}
    return Policy("billing", **{**usual, **parts})


class Front:
    """A running nginx in front of upstreams."""

    def __init__(self, policy, *servers, upstreams=None, **options):
        self.port = free_port()
        upstreams = upstreams or {"billing": [one.address for one in servers]}
        self.text = render(policy, upstreams=upstreams, listen=f"127.0.0.1:{self.port}", **options)
        self._folder = Folder("export")

    def __enter__(self):
        self._nginx = Nginx(self.text, port=self.port, folder=self._folder.__enter__()).start()
        return self

    def __exit__(self, *_):
        self._nginx.stop()
        self._folder.__exit__()

    def ask(self, method="GET", path="/", headers=None):
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, body=b"{}" if method in {"POST", "PATCH"} else None, headers=headers or {})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status, time.monotonic() - began


POLICIES = {
    "a deadline alone": lambda: Policy("billing", deadline=1.0),
    "a retry without attempt timeout": lambda: Policy("billing", deadline=1.0, retry=Retry(attempts=5)),
    "attempts that do not fit": lambda: Policy("billing", deadline=1.2, attempt_timeout=0.5, retry=Retry(attempts=3)),
    "every part": lambda: billing(
        retry=Retry(budget=Budget()),
        breaker=Breaker(consecutive=5),
        bulkhead=Bulkhead(3),
        rate_limit=RateLimit(10),
        fallback=Fallback(value=0),
    ),
    "a hedge": lambda: Policy("billing", deadline=1.0, attempt_timeout=0.5, hedge=Hedge(after=0.1), breaker=Breaker()),
    "a name with everything": lambda: Policy('a "b" {c};\nserver { }\r\n# ${d} é', deadline=1.0, retry=Retry()),
    "many attempts": lambda: Policy("billing", deadline=1.0, retry=Retry(attempts=100)),
    "a breaker for ever": lambda: Policy("billing", deadline=1.0, breaker=Breaker(consecutive=10**30, open_for=1e99, open_for_max=1e99)),
    "very short and very long": lambda: Policy("billing", deadline=10_000_000, attempt_timeout=0.0001, retry=Retry()),
}


@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize("non_idempotent", [False, True])
@pytest.mark.parametrize("servers", [{"one": ["127.0.0.1:9"]}, {"one": ["127.0.0.1:9", "[::1]:9"], "two": ["localhost:9"]}])
def test_nginx_accepts_what_is_written(make, non_idempotent, servers):
    text = render(make(), upstreams=servers, non_idempotent=non_idempotent)
    with Folder("export") as folder:
        assert "successful" in Nginx(text, port=1, folder=folder).check()


@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES.keys())
def test_the_lines_for_a_location_of_ones_own_are_accepted_there(make):
    text = f"server {{ listen 127.0.0.1:8080; location / {{ proxy_pass http://127.0.0.1:9;\n{render(make())} }} }}"
    with Folder("export") as folder:
        assert "successful" in Nginx(text, port=1, folder=folder).check()


def test_a_single_server_is_asked_again_as_often_as_the_policy_says():
    with Upstream("stall") as server, Front(billing(), server) as front:
        status, seconds = front.ask()
        assert status == 504
        assert len(server.seen) == 3
        assert seconds == pytest.approx(3 * ATTEMPT, abs=0.3)


def test_a_good_answer_of_a_later_attempt_is_the_answer():
    with Upstream("stall", "503", "200") as server, Front(billing(), server) as front:
        status, seconds = front.ask()
        assert (status, len(server.seen)) == (200, 3)
        assert seconds < 2 * ATTEMPT


def test_attempts_go_to_the_other_server_first():
    with Upstream("503") as one, Upstream("200") as two, Front(billing(), one, two) as front:
        for _ in range(10):
            assert front.ask()[0] == 200
        assert len(two.seen) == 10
        assert len(one.seen) <= 10


@pytest.mark.parametrize("mode", ["close", "502", "503", "504", "stall"])
def test_what_is_repeated(mode):
    with Upstream(mode, "200") as server, Front(billing(), server) as front:
        assert front.ask()[0] == 200
        assert len(server.seen) == 2


@pytest.mark.parametrize("mode", ["400", "404", "429", "500"])
def test_what_is_an_answer(mode):
    with Upstream(mode) as server, Front(billing(), server) as front:
        assert front.ask()[0] == int(mode)
        assert len(server.seen) == 1


def test_without_a_retry_each_request_is_sent_once():
    with Upstream("503") as server, Front(billing(retry=None), server) as front:
        assert front.ask()[0] == 503
        assert len(server.seen) == 1


def test_no_attempt_begins_that_could_end_after_the_deadline():
    with Upstream("stall") as server, Front(billing(deadline=1.0, retry=Retry(attempts=9)), server) as front:
        _, seconds = front.ask()
        assert seconds <= 1.0 + 0.1
        assert len(server.seen) == 2


@pytest.mark.parametrize("mode", ["stall", "503", "close"])
def test_a_post_that_was_sent_is_not_repeated_unless_the_user_says_so(mode):
    with Upstream(mode, "200") as server, Front(billing(), server) as front:
        assert "non_idempotent" not in front.text
        assert front.ask("POST")[0] in {502, 503, 504}
        assert len(server.seen) == 1


def test_a_post_of_which_nothing_was_sent_goes_to_the_next_server():
    with Upstream("200") as server:
        gone = Upstream("200")
        gone.__exit__()
        with Front(billing(), gone, server) as front:
            for _ in range(4):
                assert front.ask("POST")[0] == 200
        assert len(server.seen) == 4


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_where_the_user_says_so_all_attempts_of_a_post_carry_one_key(method):
    with Upstream("503", "stall", "200") as server, Front(billing(), server, non_idempotent=True) as front:
        assert front.ask(method)[0] == 200
        assert len(server.seen) == 3
        assert len({*server.headers("Idempotency-Key")}) == 1
        assert server.headers("Idempotency-Key")[0]
        front.ask(method)
        assert len({*server.headers("Idempotency-Key")}) == 2


def test_the_clients_own_key_is_kept_and_a_get_gets_none():
    with Upstream("200") as server, Front(billing(), server, non_idempotent=True) as front:
        front.ask("POST", headers={"Idempotency-Key": "order-42"})
        front.ask("GET")
        assert server.headers("Idempotency-Key") == ["order-42", None]


def test_the_request_id_is_minted_once_and_the_clients_own_is_kept():
    with Upstream("503", "503", "200") as server, Front(billing(), server) as front:
        front.ask()
        front.ask(headers={"X-Request-Id": "mine"})
        front.ask()
        ids = server.headers("X-Request-Id")
        assert ids[0] == ids[1] == ids[2]
        assert len(ids[0]) == 32
        assert ids[3] == "mine"
        assert ids[4] not in {ids[0], "mine"}


def test_the_server_is_told_how_long_an_attempt_may_take_unless_the_client_has_said_so():
    with Upstream("200") as server, Front(billing(), server) as front:
        front.ask()
        front.ask(headers={"X-Request-Timeout-Ms": "77"})
        assert server.headers("X-Request-Timeout-Ms") == ["400", "77"]


def test_no_server_is_left_out_without_a_breaker_that_counts_failures_in_a_row():
    with Upstream("503") as server, Front(billing(breaker=Breaker(failure_rate=0.01, min_calls=1)), server) as front:
        for _ in range(10):
            assert front.ask()[0] == 503
        assert len(server.seen) == 30


def test_a_breaker_that_counts_failures_in_a_row_leaves_servers_out_for_its_pause():
    policy = billing(retry=Retry(attempts=2), breaker=Breaker(consecutive=3, open_for=2.0))
    with Upstream("close") as server, Front(policy, server) as front:
        assert [front.ask()[0] for _ in range(10)] == [502] * 10
        assert len(server.seen) == 6, "three for each of two entries"
        server.modes = ["200"]
        end = time.monotonic() + 10
        while front.ask()[0] != 200:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_a_5xx_of_the_last_attempt_is_an_answer_and_no_failure_to_max_fails():
    policy = billing(retry=None, breaker=Breaker(consecutive=1, open_for=60))
    with Upstream("503") as one, Upstream("503") as two, Front(policy, one, two) as front:
        for _ in range(10):
            assert front.ask()[0] == 503
        assert len(one.seen) + len(two.seen) == 10


def test_the_host_is_the_clients():
    with Upstream("200") as server, Front(billing(), server) as front:
        front.ask(headers={"Host": "shop.example"})
        assert server.headers("Host") == ["shop.example"]


def test_several_upstreams_are_told_apart_by_their_paths():
    with Upstream("200") as one, Upstream("200") as two:
        servers = {"one": [one.address], "two": [two.address]}
        with Front(billing(), upstreams=servers) as front:
            front.ask(path="/one/tax")
            front.ask(path="/two/stock?x=1")
        assert one.headers(":line") == ["GET /tax HTTP/1.1"]
        assert two.headers(":line") == ["GET /stock?x=1 HTTP/1.1"]


def test_what_nginx_cannot_do_is_said():
    text = render(billing(retry=Retry(backoff=Backoff(), budget=Budget()), bulkhead=Bulkhead(3), fallback=Fallback(value=1)))
    for words in ("drips is", "jitter", "no retry budget", "up to 3 times", "bulkhead or adaptive limit, fallback", "max_fails=1"):
        assert words in " ".join(text.replace("#", " ").split())
    assert "rate limit" not in text


@pytest.mark.parametrize(
    ("policy", "options", "error", "message"),
    [
        (Policy("billing"), {}, ValueError, "policy 'billing' has no deadline"),
        (Policy("billing", attempt_timeout=1.0, retry=Retry()), {}, ValueError, "policy 'billing' has no deadline"),
        ("billing", {}, TypeError, "nginx is configured from a Policy, got 'billing'"),
        (billing(deadline=1e12), {}, ValueError, "nginx takes a deadline of at most 1e\\+09, got 1e\\+12"),
        (billing(retry=Retry(attempts=101)), {}, ValueError, "nginx takes a retry.attempts of at most 100, got 101"),
        (billing(), {"upstreams": {"a b": ["h:1"]}}, ValueError, "upstream names are letters"),
        (billing(), {"upstreams": {"a;": ["h:1"]}}, ValueError, "upstream names are letters"),
        (billing(), {"upstreams": {"a\n": ["h:1"]}}, ValueError, "upstream names are letters"),
        (billing(), {"upstreams": {"a": []}}, ValueError, "upstream 'a' needs a server"),
        (billing(), {"upstreams": {"a": ["h"]}}, ValueError, "upstream a must be HOST:PORT, got 'h'"),
        (billing(), {"upstreams": {"a": ["h:0"]}}, ValueError, "upstream a must be HOST:PORT"),
        (billing(), {"upstreams": {"a": ["h:65536"]}}, ValueError, "upstream a must be HOST:PORT"),
        (billing(), {"upstreams": {"a": ["h:1; evil"]}}, ValueError, "upstream a must be HOST:PORT"),
        (billing(), {"upstreams": {"a": ["h:1\n"]}}, ValueError, "upstream a must be HOST:PORT"),
        (billing(), {"upstreams": {"a": ["h:1"]}, "listen": "80;"}, ValueError, "listen must be HOST:PORT"),
    ],
)
def test_wrong_arguments_name_themselves(policy, options, error, message):
    with pytest.raises(error, match=message):
        render(policy, **options)


SHOP = """
from holdfast import Policy, Retry
billing = Policy("billing", deadline=2.0, attempt_timeout=0.5, retry=Retry())
endless = Policy("endless")
class clients:
    stock = Policy("stock", deadline=1.0)
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    (tmp_path / "shop_of_export.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    yield
    __import__("sys").modules.pop("shop_of_export", None)


def test_the_command_prints_what_the_function_returns(shop, capsys):
    servers = ["--upstream", "b=127.0.0.1:1", "--upstream", "b=127.0.0.1:2", "--upstream", "c=127.0.0.1:3"]
    assert main(["export", "nginx", "shop_of_export:billing", *servers, "--listen", "127.0.0.1:81", "--non-idempotent"]) == 0
    from shop_of_export import billing as policy

    assert capsys.readouterr().out == render(
        policy, upstreams={"b": ["127.0.0.1:1", "127.0.0.1:2"], "c": ["127.0.0.1:3"]}, listen="127.0.0.1:81", non_idempotent=True
    )
    assert main(["export", "nginx", "shop_of_export:clients.stock"]) == 0
    assert "proxy_next_upstream off;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shop_of_export:endless"], "policy 'endless' has no deadline"),
        (["shop_of_export:nothing"], "cannot load 'shop_of_export:nothing': AttributeError"),
        (["nothing_of_the_kind:billing"], "cannot load 'nothing_of_the_kind:billing': ModuleNotFoundError"),
        (["shop_of_export"], "must be MODULE:POLICY, got 'shop_of_export'"),
        (["shop_of_export:clients"], "is no Policy but"),
        (["shop_of_export:billing", "--upstream", "b"], "must be NAME=HOST:PORT, got 'b'"),
        (["shop_of_export:billing", "--upstream", "b=1", "--listen", "x"], "must be NAME=HOST:PORT, got 'b=1'"),
        (["shop_of_export:billing", "--listen", "x"], "must be HOST:PORT, got 'x'"),
        ([], "the following arguments are required: MODULE:POLICY"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(shop, capsys, arguments, said):
    try:
        status = main(["export", "nginx", *arguments])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
