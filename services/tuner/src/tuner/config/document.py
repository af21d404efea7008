"""From YAML text to the six sections, keys known and values of the right kind. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from kaito_api.config_text import TRAINING_CHARACTERS, read_config
from kaito_api.suggestions import did_you_mean
from tuner.config.keys import REMOVED, SECTIONS, Kind
from tuner.config.problem import Problem

ROOT: Final = "training_config"
_BOOLEANS: Final = {"true": True, "false": False, "yes": True, "no": False}

Sections = dict[str, dict[str, Any]]


def read(text: str) -> tuple[Sections, list[Problem]]:
    """Return every section (empty where absent) and everything that is wrong. Never raises."""
    sections: Sections = {name: {} for name in SECTIONS}
    root = _root(text)
    if isinstance(root, Problem):
        return sections, [root]
    problems: list[Problem] = []
    for name, value in root.items():
        path = f"{ROOT}.{name}"
        if name not in SECTIONS:
            known = ", ".join(SECTIONS)
            problems.append(
                Problem(path, f"is not a known section{did_you_mean(str(name), SECTIONS)}; known are {known}")
            )
        elif value is not None and not isinstance(value, dict):
            problems.append(Problem(path, f"must be a mapping, not {value!r}"))
        else:
            sections[name], found = _section(path, value or {}, SECTIONS[name])
            problems += found
    return sections, problems


def _root(text: str) -> dict[Any, Any] | Problem:
    try:
        content = read_config(text, most=TRAINING_CHARACTERS)
    except ValueError as error:
        return Problem("", str(error))
    if not isinstance(content, dict):
        return Problem("", f"must be a mapping with the key {ROOT}")
    others = [str(key) for key in content if key != ROOT]
    if others:
        return Problem(others[0], f"is not expected beside {ROOT}{did_you_mean(others[0], (ROOT,))}")
    root = content[ROOT]
    if root is None:
        return {}
    return root if isinstance(root, dict) else Problem(ROOT, "must be a mapping of sections")


def _section(path: str, given: Mapping[Any, Any], kinds: Mapping[str, Kind]) -> tuple[dict[str, Any], list[Problem]]:
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, value in given.items():
        name = str(key)
        where = f"{path}.{name}"
        kind = kinds.get(name)
        if kind is None:
            problems.append(Problem(where, _unknown(name, kinds)))
        elif value is not None:
            try:
                values[name] = _value(value, kind)
            except (TypeError, ValueError, OverflowError):
                problems.append(Problem(where, f"must be {kind.value}, not {value!r}"))
    return values, problems


def _unknown(name: str, kinds: Mapping[str, Kind]) -> str:
    if kinds is SECTIONS["TrainingArguments"] and name in REMOVED:
        return REMOVED[name]
    for section, others in SECTIONS.items():
        if name in others:
            return f"belongs to the section {section}"
    return f"is not a known key{did_you_mean(name, kinds)}"


def _value(value: Any, kind: Kind) -> Any:
    """Return the value as its kind. Raises ValueError and TypeError."""
    match kind:
        case Kind.BOOLEAN:
            return _boolean(value)
        case Kind.INTEGER | Kind.NUMBER:
            return _number(value, whole=kind is Kind.INTEGER)
        case Kind.TEXT:
            if isinstance(value, dict | list):
                raise TypeError("not text")
            return str(value)
        case Kind.MAPPING:
            if not isinstance(value, dict):
                raise TypeError("not a mapping")
            return value
        case Kind.NAMES:
            if isinstance(value, str):
                return value
            if isinstance(value, list) and all(isinstance(item, str) for item in value):
                return value
            raise ValueError("not names")
        case Kind.ANY:
            return value


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    raise ValueError("not a boolean")


def _number(value: Any, *, whole: bool) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    if number == int(number) and (whole or not isinstance(value, float | str)):
        return int(number)
    if whole:
        raise ValueError("not whole")
    return number
