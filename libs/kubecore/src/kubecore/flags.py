"""argparse types for the services' settings: what a value must be, whether the flag or its environment variable brought it.

argparse reads a default that is text with the flag's type, but never holds it against `choices`: `one_of` does both.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping

from kaito_api.meta import Key


def whole(least: int = 0, most: int | None = None) -> Callable[[str], int]:
    """Return a type for whole numbers from `least` to `most`."""
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"must be a whole number {bounds}, not {text!r}")
        return value

    return read


def positive(text: str) -> float:
    """Read a finite number above 0, such as an interval in seconds."""
    value = _real(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def not_negative(text: str) -> float:
    """Read a finite number from 0, such as a patience in seconds."""
    value = _real(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number from 0, not {text!r}")
    return value


port = whole(0, 65535)
"""A port to listen on; 0 takes a free one, or none, as the flag says."""


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a type for one of a few words."""

    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"must be {', '.join(choices[:-1])} or {choices[-1]}, not {text!r}")
        return text

    return read


def object_key(text: str) -> Key | None:
    """Read NAMESPACE/NAME; None for nothing."""
    if not text:
        return None
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise argparse.ArgumentTypeError(f"must be NAMESPACE/NAME, not {text!r}")
    return Key(namespace, name)


def switched(
    parser: argparse.ArgumentParser, environment: Mapping[str, str], variable: str, *, otherwise: bool = False
) -> bool:
    """Return what the variable of a switch says; any word but true and false is the parser's error."""
    text = environment.get(variable, "").lower()
    if text not in {"", "true", "false"}:
        parser.error(f"{variable} must be true or false, not {text!r}")
    return text == "true" if text else otherwise


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # is within no bounds
