"""vLLM's command line as data: which options exist, and argument lists read into and written from a mapping.

Pure. The table of options comes from vLLM's own parser (vllm_compat.option_table), so it is never out of date.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec


class OptionKind(StrEnum):
    """What an option takes."""

    VALUE = "value"
    LIST = "list"
    FLAG = "flag"
    """Present or absent."""
    TOGGLE = "toggle"
    """Present, absent, or negated as --no-NAME."""


class Option(msgspec.Struct, frozen=True):
    """One option by its canonical long name, without dashes."""

    name: str
    kind: OptionKind


OptionTable = Mapping[str, Option]
"""Every spelling of every option (without leading dashes, with `-` between words) to the option."""

Arguments = dict[str, tuple[str, ...]]
"""Canonical name (dotted for one field of a JSON option) to its tokens; the empty tuple for a flag.

A negated toggle is stored under its `no-` name, so that setting one spelling must remove the other: see `put`.
"""

_NEGATION: Final = "no-"


class ArgumentError(Exception):
    """The argument list or mapping does not fit vLLM's options; the message names the key and what is close to it."""


def read(tokens: Sequence[str], table: OptionTable) -> Arguments:
    """Read command line tokens. Raises ArgumentError for unknown options and stray values."""
    arguments: Arguments = {}
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if not token.startswith("-"):
            raise ArgumentError(f"unexpected value {token!r}: engine arguments are options (--name or --name=value)")
        spelled, equals, value = token.lstrip("-").partition("=")
        option, key = find(spelled, table)
        if option.kind in (OptionKind.FLAG, OptionKind.TOGGLE) and "." not in key:
            if equals:
                raise ArgumentError(f"--{spelled} takes no value, but was given {value!r}")
            put(arguments, key, ())
            continue
        values = [value] if equals else []
        while not equals and position < len(tokens) and not _is_option(tokens[position], table):
            values.append(tokens[position])
            position += 1
            if option.kind is OptionKind.VALUE:
                break
        if not values:
            raise ArgumentError(f"--{spelled} needs a value")
        put(arguments, key, tuple(values))
    return arguments


def from_mapping(settings: Mapping[str, Any], table: OptionTable) -> Arguments:
    """Read a mapping as users write it in YAML. Raises ArgumentError, naming all unknown keys at once."""
    unknown = [key for key in settings if _lookup(key, table) is None]
    if unknown:
        raise ArgumentError("; ".join(_unknown(key, table) for key in unknown))
    arguments: Arguments = {}
    for spelled, value in settings.items():
        option, key = find(spelled, table)
        if key in arguments or _opposite(key) in arguments:
            raise ArgumentError(f"{spelled} is given twice, under two spellings of {option.name}")
        encoded = _encode(spelled, key, option, value)
        if encoded is not None:
            put(arguments, *encoded)
    return arguments


def put(arguments: Arguments, key: str, values: tuple[str, ...]) -> None:
    """Set `key`, replacing what the same option had under this or its negated spelling."""
    arguments.pop(_opposite(key), None)
    arguments[key] = values


def write(arguments: Arguments, table: OptionTable) -> list[str]:
    """Return the command line, sorted by name so that equal settings give equal lists."""
    tokens: list[str] = []
    for key, values in sorted(arguments.items()):
        option, _ = find(key, table)
        if not values:
            tokens.append(f"--{key}")
        elif option.kind is OptionKind.LIST and "." not in key:
            tokens.extend((f"--{key}", *values))
        else:
            # One token: a value that starts with a dash would otherwise be taken for an option.
            tokens.append(f"--{key}={values[-1]}")
    return tokens


def find(spelled: str, table: OptionTable) -> tuple[Option, str]:
    """Return the option behind any spelling and the key to store it under. Raises ArgumentError if there is none."""
    found = _lookup(spelled, table)
    if found is None:
        raise ArgumentError(_unknown(spelled, table))
    return found


def _lookup(spelled: str, table: OptionTable) -> tuple[Option, str] | None:
    head, dot, field = spelled.lstrip("-").partition(".")
    name = head.replace("_", "-")
    option = table.get(name)
    if option is None:
        return None
    if dot:
        return (option, f"{option.name}.{field}") if option.kind is OptionKind.VALUE else None
    negated = option.kind is OptionKind.TOGGLE and name == _NEGATION + option.name
    return option, name if negated else option.name


def _is_option(token: str, table: OptionTable) -> bool:
    """Negative numbers and other values with a dash are not options; anything with two dashes is."""
    if token.startswith("--"):
        return True
    return token.startswith("-") and _lookup(token.partition("=")[0], table) is not None


def _opposite(key: str) -> str:
    return key[len(_NEGATION) :] if key.startswith(_NEGATION) else _NEGATION + key


def _encode(spelled: str, key: str, option: Option, value: Any) -> tuple[str, tuple[str, ...]] | None:
    """Return key and tokens, or None for a flag that is switched off."""
    if option.kind in (OptionKind.FLAG, OptionKind.TOGGLE) and "." not in key:
        if value is None:
            return key, ()
        if not isinstance(value, bool):
            raise ArgumentError(f"{spelled} is a switch: write true or false, not {value!r}")
        if value:
            return key, ()
        return (_opposite(key), ()) if option.kind is OptionKind.TOGGLE else None
    if value is None:
        raise ArgumentError(f"{spelled} needs a value")
    if option.kind is OptionKind.LIST and isinstance(value, list) and "." not in key:
        if not value:
            raise ArgumentError(f"{spelled} needs at least one value")
        return key, tuple(_scalar(item) for item in value)
    return key, (_scalar(value),)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True)
    return str(value)


def _unknown(spelled: str, table: OptionTable) -> str:
    name = spelled.lstrip("-").partition(".")[0].replace("_", "-")
    close = difflib.get_close_matches(name, _names(table.values()), n=3, cutoff=0.7)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"vLLM has no option {spelled}{hint}"


def _names(options: Iterable[Option]) -> list[str]:
    return sorted({option.name for option in options})
