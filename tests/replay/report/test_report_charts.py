"""What charts are made of: scales, labels that make room for each other, figures in words, colours that all can tell apart."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from holdfast.replay.report import axes, bands, charts, marks, numbers, text
from holdfast.replay.report.palette import COLOURS, OTHERS, PROTECTED, UNPROTECTED, styles
from holdfast.replay.results import Chart, Mark, Series

amounts = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False)


@given(st.lists(amounts, min_size=1))
def test_a_linear_scale_has_few_ticks_and_holds_zero_and_every_value(values):
    scale = axes.linear(values)
    assert 2 <= len(scale.ticks) <= 7
    assert scale.low <= min(0, *values)
    assert max(0, *values) <= scale.high
    assert len(set(scale.labels)) == len(scale.labels)


def test_a_count_has_no_ticks_between_whole_numbers():
    assert axes.linear([0.0, 3.0, 10.0]).labels == ("0", "5", "10")
    assert axes.linear([0.0, 1.0]).labels == ("0", "0.25", "0.5", "0.75", "1")


@given(st.lists(st.floats(min_value=1e-6, max_value=1e9), min_size=1))
def test_a_logarithmic_scale_has_few_ticks_and_holds_every_value(values):
    scale = axes.logarithmic(values)
    assert 2 <= len(scale.ticks) <= 9
    for value in values:
        assert -0.001 <= scale.share(value) <= 1.001


def test_scales_of_nothing_say_nothing():
    assert axes.linear([]).labels == ()
    assert axes.logarithmic([0.0, -1.0]).labels == ()
    assert axes.seconds([], most=8).low < axes.seconds([], most=8).high


@given(st.lists(st.tuples(st.floats(0, 100), st.text(max_size=60)), max_size=12))
def test_labels_of_marks_never_meet_and_stay_inside(given_marks):
    wanted = [Mark(at=at, label=label) for at, label in given_marks]
    placed = marks.place(wanted, [40 + mark.at * 3 for mark in wanted], 40, 343)
    assert len(placed) == len(wanted)
    for one in placed:
        assert one.left >= 40
        assert one.right <= 343 + 0.01
    for one, other in itertools.combinations(placed, 2):
        assert one.row != other.row or one.right <= other.left or other.right <= one.left


@given(st.lists(st.floats(0, 100), max_size=6))
def test_labels_at_the_ends_of_lines_never_meet(wanted):
    middles = sorted(marks.spread(wanted, [15.0] * len(wanted), 0, 120))
    assert all(after - before >= 15 - 1e-6 for before, after in itertools.pairwise(middles))
    assert not middles or (middles[0] >= 7.5 - 1e-6 and middles[-1] <= 112.5 + 1e-6)


@given(st.text(), st.floats(20, 400), st.integers(1, 4))
def test_wrapped_text_fits_its_room(words, room, lines):
    found = text.wrapped(words, room, lines)
    assert 1 <= len(found) <= lines
    assert all(text.width(line) <= room + 0.01 for line in found)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1204, "1,204"),
        (31.24, "31.2"),
        (999.6, "1,000"),
        (12345.6, "12,346"),
        (0.00125, "0.00125"),
        (0.0000001, "1.00e-07"),
        (100.0, "100"),
        (0.0, "0"),
        (-4.5, "-4.5"),
        (None, "–"),  # noqa: RUF001
        (math.nan, "–"),  # noqa: RUF001
        (math.inf, "∞"),
        ("4 sync", "4 sync"),
    ],
)
def test_figures_have_three_digits(value, words):
    assert numbers.in_words(value) == words


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ("s2s_p99_ms", ("s2s p99", "ms")),
        ("s2s_requests_per_minute", ("s2s requests", "per minute")),
        ("errors", ("errors", "")),
        ("error_share", ("error", "share")),
        ("s2s_p99_99_ms_slow", ("s2s p99.99 slow", "ms")),
        ("p99_9", ("p99.9", "")),
        ("cpu_cores_baseline", ("cpu baseline", "cores")),
        ("ms", ("ms", "")),
    ],
)
def test_a_figure_s_unit_is_taken_from_its_name(figure, words):
    assert numbers.name_and_unit(figure) == words


def test_the_numbers_of_lines_are_gaps_where_nothing_was_measured_and_states_hold():
    series = [Series(name="a", run="x", points=[(0, 1.0), (1, None), (2, 3.0)]), Series(name="b", run="x", points=[(2, 7.0)])]
    line = Chart(title="", unit="", kind="line", series=series)
    assert numbers.rows(line) == [["0", "1", "–"], ["1", "–", "–"], ["2", "3", "7"]]  # noqa: RUF001
    band = Chart(title="", unit="", kind="band", series=[Series(name="a", run="x", points=[(0, "closed")]), series[1]])
    assert numbers.rows(band) == [["0", "closed", "–"], ["2", "closed", "7"]]  # noqa: RUF001


def test_states_last_until_the_next_and_the_last_until_the_end_or_a_none():
    series = Series(name="breaker", run="x", points=[(0, "closed"), (3, "closed"), (5, "open"), (5, "half-open"), (8, None), (9, "closed")])
    found = [(stay.state, stay.begin, stay.end) for stay in bands.stays(series, 12.0)]
    assert found == [("closed", 0, 5), ("half-open", 5, 8), ("closed", 9, 12.0)]


def test_the_same_chart_is_drawn_the_same_and_another_key_shares_no_id():
    chart = Chart(title="t", unit="ms", kind="bars", series=[Series(name="n", run="unprotected", points=[("p50", 3.0)])])
    assert charts.draw(chart, key="a") == charts.draw(chart, key="a")
    ids = [set(re.findall(r'id="([^"]+)"', charts.draw(chart, key=key).wide)) for key in ("a", "b")]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_chart_in_words_names_runs_extremes_and_what_happened():
    points = [(0.0, 30.0), (1.0, 312.5), (2.0, 31.0)]
    chart = Chart(
        title="t",
        unit="ms",
        kind="line",
        series=[Series(name="provider", run="protected", points=points)],
        marks=[Mark(at=1, label="slow")],
    )
    assert charts.description(chart) == "provider, protected: from 30 to 312 ms, at the end 31. At 1 s: slow."


def test_the_user_s_own_matplotlib_settings_do_not_matter_and_stay():
    import matplotlib as mpl

    chart = Chart(title="t", unit="ms", kind="line", series=[Series(name="n", run="x", points=[(0.0, 1.0), (1.0, 2.0)])])
    usual = charts.draw(chart, key="a")
    with mpl.rc_context({"svg.fonttype": "path", "lines.linewidth": 9, "axes.facecolor": "red"}):
        assert charts.draw(chart, key="a") == usual
        assert mpl.rcParams["svg.fonttype"] == "path"


def test_runs_keep_their_looks_and_differ_without_colour():
    looks = styles(["nothing", "unprotected", "timeouts only", "protected"])
    assert (looks["unprotected"], looks["protected"]) == (UNPROTECTED, PROTECTED)
    every = [UNPROTECTED, PROTECTED, *OTHERS]
    for attribute in ("dashes", "marker", "hatch"):
        assert len({getattr(style, attribute) for style in every}) == len(every)


def test_no_two_colours_of_the_light_theme_are_equal():
    assert len({light for light, _ in COLOURS.values()}) == len(COLOURS)


# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
DEFICIENCIES = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def lab(colour: str, matrix: tuple[tuple[float, ...], ...]) -> tuple[float, float, float]:
    """CIELAB of a colour as somebody with the deficiency sees it."""
    parts = [part / 255 for part in bytes.fromhex(colour[1:])]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    seen = [min(1.0, max(0.0, sum(a * b for a, b in zip(row, linear, strict=True)))) for row in matrix]
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.9505, 1.0, 1.089)
    x, y, z = (sum(a * b for a, b in zip(row, seen, strict=True)) / at for row, at in zip(to_xyz, white, strict=True))
    x, y, z = (value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize(
    ("one", "other", "least"),
    [("run-a", "run-b", 40), ("held", "failed", 15), ("good", "bad", 40), ("good", "trying", 20), ("trying", "bad", 20)],
)
def test_what_must_be_told_apart_can_be_by_everybody(theme, deficiency, one, other, least):
    matrix = DEFICIENCIES[deficiency]
    assert math.dist(lab(COLOURS[one][theme], matrix), lab(COLOURS[other][theme], matrix)) >= least


figures = st.one_of(st.floats(-1e15, 1e15), st.sampled_from([math.nan, math.inf, -math.inf]))
measured = st.one_of(st.none(), figures, st.integers(-(10**12), 10**12), st.text(max_size=20))
series = st.builds(
    Series,
    name=st.sampled_from(["", "S2S", "client", "x" * 90]),
    run=st.sampled_from(["", "unprotected", "protected", "a", "b", "c", "d"]),
    points=st.lists(st.tuples(st.one_of(figures, st.text(max_size=20)), measured), max_size=8),
)
moments = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)
happened = st.builds(Mark, at=moments, label=st.text(max_size=50), until=st.one_of(st.none(), moments))
any_chart = st.builds(
    Chart,
    title=st.text(max_size=20),
    unit=st.text(max_size=20),
    kind=st.sampled_from(["line", "bars", "band"]),
    series=st.lists(series, max_size=6),
    marks=st.lists(happened, max_size=4),
    logarithmic=st.booleans(),
    note=st.text(max_size=20),
)


@settings(max_examples=40, phases=[Phase.generate, Phase.shrink])
@given(any_chart)
def test_whatever_was_measured_can_be_drawn_described_and_listed(chart):
    drawing = charts.draw(chart, key="any", runs=["unprotected", "protected"])
    for written in (drawing.wide, drawing.narrow):
        root = ET.fromstring(written)
        for place in re.findall(r'(?:x|y|d|viewBox)="([^"]*)"', written):
            assert "nan" not in place
            assert "inf" not in place
        assert root.get("role") == "img"
    assert charts.description(chart)
    assert all(len(row) == 1 + len(chart.series) for row in numbers.rows(chart))
