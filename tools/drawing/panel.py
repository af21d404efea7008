"""One panel: its JSON and its series go in, the SVG of a box of the given size comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from drawing import axis, units
from drawing.series import Point, Series

COLOURS = ("#1f6fc4", "#d9590b", "#2b8a3e", "#9c36b5", "#c92a2a", "#0b8a8f", "#b08900", "#5f3dc4", "#5c6670", "#a61e4d")
LEFT, RIGHT, TOP, BOTTOM = 66, 26, 36, 20
LINE, LETTER, MARK = 15, 5.9, 18
"""Height of a line of the legend, mean width of a letter of it, width of the dash before a name."""
LEGEND_LINES = 4


class Box(NamedTuple):
    """Width and height in pixels, and the window of time in seconds since 1970."""

    width: float
    height: float
    start: float
    end: float
    step: float
    """Seconds between two points of a series; where more are missing, the line is broken."""


def panel(found: Mapping[str, Any], series: Sequence[Series], box: Box) -> str:
    """Return the panel: a graph for a time series, the last values for every other type."""
    parts = [f'<rect class="panel" width="{box.width:g}" height="{box.height:g}" rx="3"/>']
    parts.append(_text(12, 22, found["title"], "title"))
    defaults = found["fieldConfig"]["defaults"]
    if not series:
        parts.append(_text(box.width / 2, box.height / 2 + 8, "No data", "none middle"))
    elif found["type"] == "timeseries":
        parts += graph(series, defaults["unit"], defaults.get("min"), box)
    else:
        parts += stat(series, defaults["unit"], box)
    return "\n".join(parts)


def graph(series: Sequence[Series], unit: str, least: float | None, box: Box) -> Iterator[str]:
    """The axes, a line for each series, and the legend below."""
    names = legend([one.name for one in series], box.width - 2 * 12)
    floor = box.height - BOTTOM - LINE * (names[-1].line + 1) - 4
    numbers = [value for one in series for _, value in one.points]
    ticks = axis.values(min(numbers) if least is None else least, max(numbers), unit)

    def x(at: float) -> float:
        return LEFT + (at - box.start) / (box.end - box.start) * (box.width - LEFT - RIGHT)

    def y(value: float) -> float:
        return floor - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (floor - TOP)

    for tick in ticks:
        yield f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{box.width - RIGHT:g}"/>'
        yield _text(LEFT - 6, y(tick) + 4, units.text(tick, unit), "end")
    for at, words in axis.times(box.start, box.end):
        yield f'<path class="grid" d="M{x(at):.1f} {TOP}V{floor:g}"/>'
        yield _text(x(at), floor + 14, words, "middle")
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        for points in runs(one.points, box.step):
            corners = simplified([(round(x(at), 1), round(y(value), 1)) for at, value in points])
            if len(corners) == 1:
                yield f'<circle cx="{corners[0][0]}" cy="{corners[0][1]}" r="2" fill="{colour}"/>'
            else:
                yield f'<path class="line" stroke="{colour}" d="{_path(corners)}"/>'
    for name in names:
        height = floor + BOTTOM + LINE * name.line + 10
        if name.number is not None:
            colour = COLOURS[name.number % len(COLOURS)]
            yield f'<path class="mark" stroke="{colour}" d="M{12 + name.x:.0f} {height - 4:g}h12"/>'
        yield _text(12 + name.x + MARK, height, name.text, "name")


def stat(series: Sequence[Series], unit: str, box: Box) -> Iterator[str]:
    """The last value of each series: one fills the panel, several are a list."""
    if len(series) == 1:
        yield _text(box.width / 2, box.height / 2 + 16, units.text(series[0].points[-1][1], unit), "big middle")
        yield _text(box.width / 2, box.height / 2 + 44, _cut(series[0].name, box.width - 24), "name middle")
        return
    room = int((box.height - TOP - 8) // 20)
    shown = series if len(series) <= room else series[: room - 1]
    for number, one in enumerate(shown):
        height = TOP + 18 + 20 * number
        yield _text(12, height, _cut(one.name, box.width - 110), "name")
        yield _text(box.width - 12, height, units.text(one.points[-1][1], unit), "value end")
    if len(shown) < len(series):
        yield _text(12, TOP + 18 + 20 * len(shown), f"and {len(series) - len(shown)} more", "name")


class Name(NamedTuple):
    """One entry of a legend: the number of its series (None: it says how many are left out), line, place in it, text."""

    number: int | None
    line: int
    x: float
    text: str


def legend(names: Sequence[str], width: float) -> list[Name]:
    """Return where each name stands: side by side as long as there is room; what four lines do not hold is counted."""
    placed: list[Name] = []
    line, x = 0, 0.0
    for number, full in enumerate(names):
        words = _cut(full, width - MARK)
        size = MARK + LETTER * len(words)
        if x and x + size > width:
            line, x = line + 1, 0.0
        if line == LEGEND_LINES:
            # The last one that was placed makes room for the count.
            last = placed.pop()
            placed.append(Name(None, last.line, last.x, f"and {len(names) - number + 1} more"))
            break
        placed.append(Name(number, line, x, words))
        x += size + 12
    return placed


def runs(points: Sequence[Point], step: float) -> Iterator[Sequence[Point]]:
    """The stretches of a series in which no point is missing."""
    begin = 0
    for number in range(1, len(points) + 1):
        if number == len(points) or points[number][0] - points[number - 1][0] > 1.5 * step:
            yield points[begin:number]
            begin = number


def simplified(corners: Sequence[Point]) -> list[Point]:
    """Return the corners without those that lie on the straight line between their neighbours."""
    kept: list[Point] = []
    for corner in corners:
        while len(kept) > 1 and _straight(kept[-2], kept[-1], corner):
            kept.pop()
        kept.append(corner)
    return kept


def _straight(first: Point, second: Point, third: Point) -> bool:
    (ax, ay), (bx, by), (cx, cy) = first, second, third
    return abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) < 1e-6


def _path(corners: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in corners)


def _cut(words: str, width: float) -> str:
    room = int(width / LETTER)
    return words if len(words) <= room else words[: room - 1] + "…"


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(words)}</text>'
