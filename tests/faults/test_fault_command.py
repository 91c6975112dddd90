"""`python -m holdfast faults`: starts, says where, stops at a signal; bad input is one line and status 2."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

import pytest
from fault_servers import echo, serving

from holdfast.cli import main
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_runs_until_a_signal_and_ends_well(number):
    with serving(echo) as (host, port):
        command = [sys.executable, "-W", "error", "-m", "holdfast", "faults", "--to", f"{host}:{port}", "latency=100ms,jitter=20ms"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                said = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", process.stdout.readline())
                with socket.create_connection(("127.0.0.1", int(said[1])), 3) as client:
                    watch = Stopwatch(process.pid)
                    client.sendall(b"ping")
                    assert client.recv(10) == b"ping"
                    assert 0.075 < watch.elapsed
                    assert watch.took < 0.3
                    process.send_signal(number)
                    rest = process.communicate(timeout=20)
            finally:
                process.kill()
        assert rest == ("1 connections, 4 bytes up, 4 bytes down\n", "")
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "holdfast: name a command: export, faults, fleet, replay; `holdfast --help` says what each does"),
        (["fuatls"], "holdfast: argument COMMAND: invalid choice: 'fuatls'"),
        (["faults", "drip=0"], "holdfast faults: argument FAULT: Drip.interval must be > 0 seconds and finite, got 0"),
        (["faults", "dirp=1"], "holdfast faults: argument FAULT: unknown fault 'dirp', known are"),
        (["faults", "--to", "nowhere"], "holdfast faults: argument --to: must be HOST:PORT with a port in [1, 65535], got 'nowhere'"),
        (["faults", "--listen", "127.0.0.1:x"], "holdfast faults: argument --listen: must be HOST:PORT with a port in [0, 65535]"),
        (["faults", "--seed", "-1"], "holdfast faults: argument --seed: "),
        (["faults", "--speed"], "holdfast faults: unrecognized arguments: --speed"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(line)


def test_a_port_that_is_taken_is_one_line_and_status_1(capsys):
    with serving(echo) as (host, port):
        before = signal.getsignal(signal.SIGTERM)
        assert main(["faults", "--listen", f"{host}:{port}"]) == 1
        assert signal.getsignal(signal.SIGTERM) is before
    assert re.fullmatch(r"holdfast faults: cannot start: .*in use\n", capsys.readouterr().err)


def test_help_is_on_stdout_and_status_0(capsys):
    for arguments in (["--help"], ["faults", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert "faults" in capsys.readouterr().out
