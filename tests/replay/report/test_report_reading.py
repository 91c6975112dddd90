"""A replay survives its JSON, and what is no replay is an error that says where."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import made_up
import pytest

from holdfast.replay.report.__main__ import main
from holdfast.replay.results import Replay


def plain() -> Any:
    return json.loads(json.dumps(made_up.replay().plain(), allow_nan=False))


def test_a_replay_is_the_same_after_its_way_through_json():
    again = Replay.from_plain(plain())
    assert json.dumps(again.plain()) == json.dumps(made_up.replay().plain())
    assert again.incidents[0].difference.startswith("--- a/app.py")
    assert again.incidents[0].charts[0].marks[0].until == 45
    assert again.held is False


def test_every_field_of_the_records_is_in_the_json():
    incident = plain()["incidents"][0]
    fields = {field.metadata.get("key", field.name) for field in dataclasses.fields(made_up.replay().incidents[0])}
    assert fields == set(incident)


def test_keys_of_a_newer_file_are_left_alone():
    given = plain()
    given["weather"] = "rain"
    given["incidents"][0]["claims"][0]["mood"] = None
    assert Replay.from_plain(given).seed == 7


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda given: given.pop("seed"), "seed is missing"),
        (lambda given: given.update(seed=True), "seed must be a whole number, got True"),
        (lambda given: given.update(took="long"), "took must be a number, got 'long'"),
        (lambda given: given.update(incidents={}), "incidents must be a list, got {}"),
        (lambda given: given.update(machine=["x"]), r"machine must be an object, got \['x'\]"),
        (lambda given: given["incidents"].append(3), r"incidents\[2\] must be an object, got 3"),
        (lambda given: given["incidents"][0].pop("id"), r"incidents\[0\]\.id is missing"),
        (
            lambda given: given["incidents"][0]["claims"][1].update(held="yes"),
            r"incidents\[0\]\.claims\[1\]\.held must be true or false, got 'yes'",
        ),
        (
            lambda given: given["incidents"][0]["charts"][2].update(kind="pie"),
            r"charts\[2\]\.kind must be one of line, bars, band, got 'pie'",
        ),
        (
            lambda given: given["incidents"][0]["charts"][0]["series"][0]["points"].append([1]),
            r"series\[0\]\.points\[61\] must be a list of 2, got \[1\]",
        ),
        (
            lambda given: given["incidents"][0]["runs"]["protected"].update(errors=[]),
            r"runs\.protected\.errors must be .* or null, got \[\]",
        ),
    ],
)
def test_bad_input_names_the_field_and_what_it_must_be(spoil: Callable[[Any], object], message: str):
    given = plain()
    spoil(given)
    with pytest.raises(ValueError, match=message):
        Replay.from_plain(given)


@pytest.mark.parametrize("given", [None, [], "replay", 3])
def test_something_else_than_an_object_is_an_error(given: object):
    with pytest.raises(ValueError, match="the file must be an object"):
        Replay.from_plain(given)


def test_the_command_draws_a_report_beside_the_json_file(tmp_path, capsys):
    file = tmp_path / "replay.json"
    file.write_text(json.dumps(plain()))
    assert main([str(file)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(("content", "said"), [("{", "Expecting"), ("{}", "seed is missing"), (None, "No such file")])
def test_the_command_says_in_one_line_what_is_wrong_with_the_file(tmp_path, capsys, content, said):
    file = tmp_path / "replay.json"
    if content is not None:
        file.write_text(content)
    assert main([str(file)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_the_command_says_nothing_more_where_there_is_no_home_to_write_to(tmp_path):
    file = tmp_path / "replay.json"
    file.write_text(json.dumps(plain()))
    home = tmp_path / "no-folder"
    home.write_text("")  # what cannot be made into a folder, also by root
    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    environment.pop("MPLCONFIGDIR", None)
    command = [sys.executable, "-m", "holdfast.replay.report", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'report.html'}\n", "")
