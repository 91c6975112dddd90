"""`holdfast replay` as its users call it: arguments, exit status, files, and what is left when it is interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

QUICK = [sys.executable, str(Path(__file__).with_name("quick.py"))]


def replay(*arguments, mode="held", cwd, **more):
    environment = {**os.environ, "QUICK_MODE": mode, "NO_COLOR": "1", **more}
    return subprocess.run([*QUICK, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_all_claims_held_is_exit_status_0_with_a_report_and_json(tmp_path):
    done = replay("1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "It is quick" in done.stdout
    assert "at most 2 ms" in done.stdout
    assert "<svg" in (tmp_path / "replay-out" / "report.html").read_text()
    told = json.loads((tmp_path / "replay-out" / "replay.json").read_text())
    assert told["seed"] == 1
    assert told["scale"] == 10.0
    (incident,) = told["incidents"]
    assert incident["id"] == 1
    assert incident["title"] == "A quick one"
    assert set(incident["runs"]) == {"unprotected", "protected"}
    assert incident["claims"] == [{"text": "It is quick", "bar": "at most 2 ms", "measured": "1 ms", "held": True}]


def test_a_claim_that_failed_is_exit_status_1_and_still_a_report(tmp_path):
    done = replay("1", mode="failed", cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads((tmp_path / "replay-out" / "replay.json").read_text())["incidents"][0]["claims"][0]["held"] is False
    assert (tmp_path / "replay-out" / "report.html").exists()


def test_an_incident_that_cannot_run_is_named_with_its_reason_and_not_a_success(tmp_path):
    done = replay("1", mode="unavailable", cwd=tmp_path)
    assert done.returncode == 1
    assert "apt-get install broker" in done.stdout
    (skipped,) = json.loads((tmp_path / "replay-out" / "replay.json").read_text())["skipped"]
    assert skipped["part"].startswith("incident 1")
    assert "there is no broker here" in skipped["reason"]


def test_without_numbers_all_are_played_and_twice_the_same_is_once(tmp_path):
    assert replay(cwd=tmp_path).returncode == 0
    assert len(json.loads((tmp_path / "replay-out" / "replay.json").read_text())["incidents"]) == 3
    assert replay("2", "2", cwd=tmp_path).returncode == 0
    assert len(json.loads((tmp_path / "replay-out" / "replay.json").read_text())["incidents"]) == 1


def test_seed_scale_and_places_are_the_users(tmp_path):
    done = replay("1", "--seed", "7", "--real-time", "--out", "a/b", "--json", "c/d.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "c" / "d.json").read_text())
    assert told["seed"] == 7
    assert told["scale"] == told["incidents"][0]["runs"]["protected"]["scale"] == 1.0
    assert (tmp_path / "a" / "b" / "report.html").exists()
    again = replay("1", "--seed", "7", "--real-time", "--out", "a/b", "--json", "c/e.json", cwd=tmp_path)
    assert again.returncode == 0
    assert json.loads((tmp_path / "c" / "e.json").read_text())["incidents"] == told["incidents"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["9"], "an incident must be one of 1, 2, 3, got '9'"),
        (["x"], "an incident must be one of 1, 2, 3, got 'x'"),
        (["--seed", "-1"], "a seed must be a whole number from 0, got '-1'"),
        (["--seed", "x"], "a seed must be a whole number from 0, got 'x'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, arguments, message):
    done = replay(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said_before_anything_runs(tmp_path):
    (tmp_path / "file").touch()
    for arguments in (["--out", "file/x"], ["--out", "file"], ["--json", "."], ["--out", "/proc/1"]):
        done = replay("1", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert "cannot write there" in done.stderr
        assert "Traceback" not in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_incident_whose_server_does_not_start_ends_with_its_log_and_the_others_are_played(tmp_path):
    done = replay(mode="start failed once", cwd=tmp_path)
    assert done.returncode == 1
    told = json.loads((tmp_path / "replay-out" / "replay.json").read_text())
    assert len(told["incidents"]) == 2
    assert "cannot bind" in told["skipped"][0]["reason"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_process_and_no_folder(tmp_path, number):
    pids = tmp_path / "pids"
    environment = {**os.environ, "QUICK_MODE": "long", "QUICK_PIDS": str(pids)}
    with subprocess.Popen(
        [*QUICK, "1"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        give_up = time.monotonic() + 20
        while not (pids.exists() and pids.read_text()):
            assert time.monotonic() < give_up
            assert running.poll() is None
            time.sleep(0.02)
        pid, folder = pids.read_text().split()
        running.send_signal(number)
        _, stderr = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "interrupted; nothing is left running" in stderr
    assert "Traceback" not in stderr
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(folder).parent.exists()
    assert not (tmp_path / "replay-out").exists()


def test_a_fault_of_the_replay_itself_is_not_hidden_and_leaves_nothing(tmp_path):
    done = replay("1", mode="error", cwd=tmp_path)
    assert done.returncode not in (0, 130)
    assert "a fault of the replay itself" in done.stderr


def test_without_the_extra_it_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['rich'] = None\nfrom holdfast.cli import main; sys.exit(main(['replay', '1']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "holdfast replay needs its extra (there is no rich): pip install 'holdfast[replay]'\n"
