"""Pictures of dashboards: samples and a panel's JSON go in, SVG comes out."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as Xml
from pathlib import Path
from typing import Any

import pytest
from drawing import axis, units
from drawing.board import Window, board, chosen
from drawing.panel import Box, legend, panel, runs, simplified
from drawing.series import Series, fill, name_of, parse

from kaito_local.locations import REPOSITORY
from kaito_local.prometheus import BOARDS

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = REPOSITORY / "docs" / "pictures"
BOX = Box(400, 250, 1_800_000_000, 1_800_000_600, 5)


def shown(picture: str) -> list[str]:
    """Every text of a picture."""
    root = Xml.fromstring(f'<g xmlns="http://www.w3.org/2000/svg">{picture}</g>')
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def of(kind: str, unit: str = "short", **defaults: Any) -> dict[str, Any]:
    return {"title": "Queue", "type": kind, "fieldConfig": {"defaults": {"unit": unit, **defaults}}}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "short", "0"),
        (0.25, "short", "0.25"),
        (0.000123456, "short", "0.000123"),
        (1234, "short", "1.23 K"),
        (1536, "bytes", "1.5 KiB"),
        (3 * 2**30, "bytes", "3 GiB"),
        (0, "s", "0 s"),
        (0.0005, "s", "500 µs"),
        (0.25, "s", "250 ms"),
        (90, "s", "1.5 min"),
        (7200, "s", "2 h"),
        (0.123, "percentunit", "12.3 %"),
        (12.2406, "currencyUSD", "$12.2"),
        (3.5, "reqps", "3.5 req/s"),
        (1500, "ops", "1.5 K ops/s"),
    ],
)
def test_values_have_three_digits_and_a_unit(value: float, unit: str, text: str) -> None:
    assert units.text(value, unit) == text


def test_every_unit_of_the_dashboards_can_be_written_and_others_are_named() -> None:
    for file in BOARDS:
        for each in json.loads(file.read_text())["panels"]:
            assert units.text(1, each["fieldConfig"]["defaults"]["unit"])
    with pytest.raises(ValueError, match="'lightyear'"):
        units.text(1, "lightyear")


@pytest.mark.parametrize(
    ("low", "high", "unit", "ticks"),
    [
        (0, 1, "short", [0, 0.25, 0.5, 0.75, 1]),
        (0, 7, "short", [0, 2, 4, 6, 8]),
        (0, 0, "short", [0, 0.25, 0.5, 0.75, 1]),
        (0, 0.03, "percentunit", [0, 0.01, 0.02, 0.03]),
        (0, 3 * 2**20, "bytes", [0, 2**20, 2 * 2**20, 3 * 2**20]),
        (0, 100, "s", [0, 30, 60, 90, 120]),
        (5, 6, "short", [5, 5.25, 5.5, 5.75, 6]),
    ],
)
def test_ticks_are_round_and_reach_the_highest_value(low: float, high: float, unit: str, ticks: list[float]) -> None:
    assert axis.values(low, high, unit) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("seconds", "ticks"),
    [
        (600, ["08:00", "08:02", "08:04", "08:06", "08:08", "08:10"]),
        (45, ["08:00:00", "08:00:10", "08:00:20", "08:00:30", "08:00:40"]),
    ],
)
def test_times_stand_on_full_minutes_or_seconds(seconds: int, ticks: list[str]) -> None:
    assert [words for _, words in axis.times(1_800_000_000, 1_800_000_000 + seconds)] == ticks


@pytest.mark.parametrize(
    ("labels", "form", "name"),
    [
        ({"namespace": "team", "pod": "phi-0"}, "{{namespace}}/{{ pod }}", "team/phi-0"),
        ({}, "{{condition}} {{reason}}", "Value"),
        ({"b": "2", "a": "1"}, "", "a=1, b=2"),
        ({"a": "1"}, "USD an hour", "USD an hour"),
    ],
)
def test_the_legend_names_a_series_by_its_labels(labels: dict[str, str], form: str, name: str) -> None:
    assert name_of(labels, form) == name


def test_what_is_no_number_is_no_point() -> None:
    matrix = [
        {"metric": {"a": "1"}, "values": [[1, "NaN"], [2, "0.5"], [3, "+Inf"]]},
        {"metric": {"a": "2"}, "values": [[1, "NaN"]]},
    ]
    assert parse(matrix, "{{a}}") == [Series("1", ((2.0, 0.5),))]
    assert parse([{"metric": {}, "value": [7, "3"]}], "") == [Series("Value", ((7.0, 3.0),))]


def test_variables_are_filled_in_as_whole_words_and_unknown_ones_are_named() -> None:
    assert fill('a{b="$n", c=~"$name-.*"}', {"n": "x", "name": "y"}) == 'a{b="x", c=~"y-.*"}'
    with pytest.raises(ValueError, match=r"\$name"):
        fill("$name", {"n": "x"})


def test_a_line_breaks_where_points_are_missing() -> None:
    points = [(0.0, 1.0), (5.0, 1.0), (20.0, 1.0)]
    assert list(runs(points, 5)) == [points[:2], points[2:]]


def test_corners_on_a_straight_line_are_left_out() -> None:
    assert simplified([(0, 0), (1, 1), (2, 2), (3, 2), (4, 2)]) == [(0, 0), (2, 2), (4, 2)]


def test_a_graph_spans_its_box_from_the_least_value_to_the_highest_tick() -> None:
    rising = Series("<a>", ((BOX.start, 0.0), (BOX.end - 300, 10.0)))
    picture = panel(of("timeseries", "reqps", min=0), [rising], BOX._replace(step=300))
    assert {"Queue", "<a>", "0 req/s", "10 req/s", "08:00", "08:10"} <= set(shown(picture))
    (line,) = re.findall(r'class="line" stroke="\S+" d="(\S+ \S+ \S+)"', picture)
    first, last = (tuple(map(float, corner.split())) for corner in line[1:].split("L"))
    assert (first[0], last[0]) == pytest.approx((66, 66 + (400 - 66 - 26) / 2)), "half of the window"
    assert last[1] == pytest.approx(36), "the highest tick is the upper edge"
    assert first[1] == pytest.approx(250 - 20 - 15 - 4), "zero is the lower edge"


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([], ["Queue", "No data"]),
        ([0.5], ["Queue", "50 %", "pod-0"]),
        ([0.5, 1], ["Queue", "pod-0", "50 %", "pod-1", "100 %"]),
        (
            [n / 100 for n in range(12)],
            ["Queue", *(word for n in range(9) for word in (f"pod-{n}", f"{n} %")), "and 3 more"],
        ),
    ],
)
def test_a_stat_shows_the_last_values(values: list[float], texts: list[str]) -> None:
    series = [Series(f"pod-{number}", ((1.0, 9.0), (2.0, value))) for number, value in enumerate(values)]
    assert shown(panel(of("stat", "percentunit"), series, BOX)) == texts


def test_a_legend_flows_and_counts_what_it_leaves_out() -> None:
    assert [(name.line, name.text) for name in legend(["a", "b"], 376)] == [(0, "a"), (0, "b")]
    names = legend([f"{number:02}{'x' * 48}" for number in range(9)], 376)
    assert [name.line for name in names] == [0, 1, 2, 3]
    assert [name.text for name in names][-1] == "and 6 more"
    (long,) = legend(["y" * 99], 376)
    assert long.text == "y" * 59 + "…"


def test_a_board_places_each_panel_by_its_grid() -> None:
    first = of("stat") | {"id": 1, "gridPos": {"x": 0, "y": 0, "w": 8, "h": 7}}
    second = of("stat") | {"id": 2, "title": "Leaders", "gridPos": {"x": 16, "y": 7, "w": 8, "h": 7}}
    variables = [{"name": "datasource", "type": "datasource"}, {"name": "workspace", "type": "query"}]
    found = {"title": "KAITO / One", "panels": [first, second], "templating": {"list": variables}}
    picture = board(found, {1: [], 2: []}, Window(BOX.start, BOX.end, 5), chosen(found, {"workspace": "phi"}))
    root = Xml.fromstring(picture)
    assert [group.get("transform") for group in root.iter(f"{SVG}g")] == ["translate(8 64)", "translate(808 316)"]
    assert (root.get("width"), root.get("height")) == ("1208", "568")
    assert "workspace: phi · 2027-01-15 08:00:00 to 08:10:00 UTC" in shown(picture)
    with pytest.raises(ValueError, match="needs a value for workspace"):
        chosen(found, {"namespace": "team"})


@pytest.mark.parametrize("file", BOARDS, ids=lambda file: file.stem)
def test_the_docs_show_a_small_picture_of_each_dashboard_with_all_of_its_panels(file: Path) -> None:
    picture = PICTURES / f"{file.stem}.svg"
    texts = shown(picture.read_text())
    assert {each["title"] for each in json.loads(file.read_text())["panels"]} <= set(texts)
    assert "No data" not in texts
    assert picture.stat().st_size < 150_000
    assert f"pictures/{file.stem}.svg" in (REPOSITORY / "docs" / "observe.md").read_text()
