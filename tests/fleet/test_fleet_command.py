"""`holdfast fleet`: what people do from a terminal."""

from __future__ import annotations

import fleet_hosts as do
import pytest
from fleet_hosts import hosts, until

from holdfast.cli import main
from holdfast.replay.parts.redis import redis_server

pytestmark = pytest.mark.realtime


def test_force_status_and_reset_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with redis_server() as redis, hosts(2, redis.url, breaker={}) as fleet:
        for host in fleet:
            host.do(do.calls, 5)
        until(lambda: fleet[0].do(do.snapshot)["policies"]["billing"]["processes"] == 2)
        assert main(["fleet", "status", "--url", redis.url]) == 0
        assert capsys.readouterr().out.startswith("billing  closed")
        assert main(["fleet", "force-open", "billing", "--url", redis.url]) == 0
        assert capsys.readouterr().out == "billing  forced-open    2 processes, 0 calls, 0 failed, 0 slow\n"
        until(lambda: all(host.do(do.state) == "forced-open" for host in fleet))
        assert main(["fleet", "force-closed", "billing", "--url", redis.url]) == 0
        until(lambda: all(host.do(do.state) == "forced-closed" for host in fleet))
        assert main(["fleet", "reset", "billing", "--url", redis.url]) == 0
        until(lambda: all(host.do(do.state) == "closed" for host in fleet))


def test_a_policy_may_be_forced_before_any_process_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    with redis_server() as redis:
        assert main(["fleet", "status", "--url", redis.url]) == 0
        assert capsys.readouterr().out == "no policy is known here\n"
        assert main(["fleet", "force-open", "billing", "odd {name} 100%", "--url", redis.url, "--prefix", "shop"]) == 0
        capsys.readouterr()
        assert main(["fleet", "status", "--url", redis.url, "--prefix", "shop"]) == 0
        assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == ["billing", "odd {name} 100%"]
        assert main(["fleet", "status", "nobody", "--url", redis.url]) == 0
        assert "not known" in capsys.readouterr().out
        with hosts(1, redis.url, breaker={}, prefix="shop") as (host,):
            until(lambda: host.do(do.state) == "forced-open")


def test_what_is_wrong_is_said_in_a_line_without_the_url(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOLDFAST_FLEET_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    wrong = [
        (["fleet", "status"], "say where the store is"),
        (["fleet", "reset", "--url", "redis://x"], "say which policy"),
        (["fleet", "status", "--url", "http://me:secret@x"], "must begin with"),
        (["fleet", "status", "--url", "redis://me:secret@x:99999"], "ports"),
        (["fleet", "status", "--url", "redis://me:secret@127.0.0.1:1"], "no connection"),
    ]
    for arguments, words in wrong:
        assert main(arguments) == 1
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
        assert "secret" not in said
    with pytest.raises(SystemExit) as ended:
        main(["fleet", "explode"])
    assert ended.value.code == 2
    monkeypatch.setenv("HOLDFAST_FLEET_URL", "redis://127.0.0.1:1")
    assert main(["fleet", "status"]) == 1
