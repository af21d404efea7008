"""What Prometheus answers, as named series of points."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Point = tuple[float, float]
"""Seconds since 1970, and the value."""


class Series(NamedTuple):
    """One line of a graph or one value of a stat, under the name that the legend shows."""

    name: str
    points: tuple[Point, ...]


def parse(result: Sequence[Mapping[str, Any]], legend: str) -> list[Series]:
    """Return the series of a range query's matrix or an instant query's vector that have a value: NaN and infinities are none."""
    found = []
    for sample in result:
        pairs = sample["values"] if "values" in sample else [sample["value"]]
        points = tuple((float(at), float(value)) for at, value in pairs)
        kept = tuple(point for point in points if math.isfinite(point[1]))
        if kept:
            found.append(Series(name_of(sample["metric"], legend), kept))
    return found


def name_of(labels: Mapping[str, str], legend: str) -> str:
    """Return the legend with its `{{label}}` filled in; without any of them the labels, or "Value" where there are none."""
    name = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend)
    if re.search(r"\w", name):
        return name.strip()
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "Value"


def fill(query: str, variables: Mapping[str, str]) -> str:
    """Return the query with `$name` replaced. ValueError for a variable that has no value."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in variables:
            raise ValueError(f"the query {query!r} has the variable ${found[1]}, which has no value")
        return variables[found[1]]

    return re.sub(r"\$(\w+)", value, query)
