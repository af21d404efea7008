"""The chart's values: keys, defaults and comments from each values.yaml, types and limits from the schema beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from reference.table import code, table

HEAD = ("Value", "Type", "Default", "Meaning")
_GLOBAL = "global"
"""Repeated in each sub-chart for its installation alone; shown once."""


def page(chart: Path) -> str:
    """Return the page; `chart` is the folder of the umbrella chart."""
    parts = [
        "# Values of the chart\n",
        "From each `values.yaml` and the schema beside it, which refuses a misspelt value by name. In the umbrella chart the "
        "values of a sub-chart stand below its name, as here; without it where the sub-chart is installed alone.\n",
        "## kaito\n",
        table(HEAD, rows(chart, "")),
    ]
    for service in sorted(path.name for path in (chart / "charts").iterdir()):
        parts += [f"## {service}\n", table(HEAD, rows(chart / "charts" / service, f"{service}."))]
    return "\n".join(parts)


def rows(chart: Path, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each value of a chart: what holds others only where it is explained."""
    text = (chart / "values.yaml").read_text()
    schema = json.loads((chart / "values.schema.json").read_text())
    services = {path.name for path in chart.glob("charts/*")}
    tree = yaml.compose(text)
    assert isinstance(tree, yaml.MappingNode)
    left_out = services | ({_GLOBAL} if prefix else set())
    for path, node, meaning in _walk(tree, text.splitlines(), schema, ()):
        if path[0] in left_out:
            continue
        shape = _shape(schema, path)
        if "properties" in shape:
            if meaning:
                yield code(prefix + ".".join(path)), "", "", meaning
            continue
        default = yaml.safe_load(yaml.serialize(node))
        yield code(prefix + ".".join(path)), _type(shape), code(json.dumps(default)) if default != "" else "", meaning


def _walk(
    tree: yaml.MappingNode, lines: list[str], schema: dict[str, Any], above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], yaml.Node, str]]:
    for key, node in tree.value:
        path = (*above, key.value)
        yield path, node, _comment(lines, key)
        if isinstance(node, yaml.MappingNode) and "properties" in _shape(schema, path):
            yield from _walk(node, lines, schema, path)


def _comment(lines: list[str], key: yaml.Node) -> str:
    """Return the comment right above a key, "" where it has none or does not begin its line."""
    number, column = key.start_mark.line, key.start_mark.column
    if lines[number][:column].strip():
        return ""
    found: list[str] = []
    while number > 0 and lines[number - 1][: column + 2] == " " * column + "# ":
        number -= 1
        found.insert(0, lines[number].strip().removeprefix("# "))
    return " ".join(found).replace("<", "&lt;")


def _shape(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Return what the schema says about a value; KeyError where it does not know it."""
    for name in path:
        schema = schema["properties"][name]
    return schema


def _type(shape: dict[str, Any]) -> str:
    if "enum" in shape:
        return "one of " + ", ".join(code(value) for value in shape["enum"])
    bounds = [
        words.format(shape[key])
        for key, words in (("minimum", "at least {}"), ("exclusiveMinimum", "more than {}"), ("maximum", "at most {}"))
        if key in shape
    ]
    kind = f"list of {_type(shape['items'])}" if "items" in shape else shape["type"]
    return ", ".join([kind, *bounds])
