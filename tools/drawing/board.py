"""A whole dashboard as one SVG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any, NamedTuple

from drawing.panel import Box, panel
from drawing.series import Series

COLUMN, ROW, GAP, HEAD = 50, 36, 8, 64
"""Pixels of one of the 24 columns of Grafana's grid, of one of its rows, between two panels, above them."""
STYLE = """
text { font: 11px "Helvetica Neue", Helvetica, Arial, "DejaVu Sans", sans-serif; fill: #464c54 }
.board { font-size: 20px; font-weight: 600; fill: #1d2126 }
.title { font-size: 13px; font-weight: 600; fill: #1d2126 }
.big { font-size: 40px; font-weight: 600; fill: #1f6fc4 }
.value { font-weight: 600; fill: #1d2126 }
.none { font-size: 14px; fill: #6b737c }
.middle { text-anchor: middle }
.end { text-anchor: end }
.panel { fill: #fff; stroke: #d5dae0 }
.grid { stroke: #e6e9ed; fill: none }
.line { stroke-width: 1.6; fill: none; stroke-linejoin: round }
.mark { stroke-width: 3 }
"""


class Window(NamedTuple):
    """The time that a picture shows, in seconds since 1970, and the seconds between two points."""

    start: float
    end: float
    step: float


def board(
    found: Mapping[str, Any], data: Mapping[int, Sequence[Series]], window: Window, variables: Mapping[str, str]
) -> str:
    """Return the picture: every panel at its place in the grid, its series under its id in `data`."""
    places = [each["gridPos"] for each in found["panels"]]
    width = max(place["x"] + place["w"] for place in places) * COLUMN + GAP
    height = HEAD + max(place["y"] + place["h"] for place in places) * ROW
    title = escape(found["title"])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#f4f5f7"/>',
        f'<text x="{GAP}" y="28" class="board">{title}</text>',
        f'<text x="{GAP}" y="48">{escape(_subtitle(window, variables))}</text>',
    ]
    for each, place in zip(found["panels"], places, strict=True):
        size = place["w"] * COLUMN - GAP, place["h"] * ROW - GAP
        corner = f"translate({place['x'] * COLUMN + GAP} {HEAD + place['y'] * ROW})"
        parts += [f'<g transform="{corner}">', panel(each, data[each["id"]], Box(*size, *window)), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def chosen(found: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the variables that this dashboard has. ValueError where one of them has none."""
    names = [each["name"] for each in found["templating"]["list"] if each["type"] == "query"]
    if missing := [name for name in names if name not in values]:
        raise ValueError(f"the dashboard {found['title']!r} needs a value for {', '.join(missing)}")
    return {name: values[name] for name in names}


def _subtitle(window: Window, variables: Mapping[str, str]) -> str:
    start, end = (datetime.fromtimestamp(at, UTC) for at in (window.start, window.end))
    parts = [f"{name}: {value}" for name, value in variables.items()]
    return " · ".join([*parts, f"{start:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S} UTC"])
