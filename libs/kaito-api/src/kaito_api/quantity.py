"""Kubernetes quantities ("500m", "16Gi", "1e3") as exact decimals. Grammar: apimachinery's resource.Quantity."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final, TypeAlias

Quantities: TypeAlias = dict[str, str | int]
"""Resource name to quantity. Custom resources may store bare integers, built-in kinds always give strings."""

_PATTERN: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?\d{1,2}))?", re.ASCII)
_FACTORS: Final = {
    **{
        suffix: Decimal(1000) ** power
        for power, suffix in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"), -3)
    },
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}
_MAX_LENGTH: Final = 64


def parse(quantity: str | int) -> Decimal:
    """Return the exact value of `quantity` in its base unit (bytes, cores, pieces).

    Raises ValueError with the offending text for anything that the apiserver would not take as a quantity, and for
    exponents of more than two digits and texts of more than 64 characters, which no real quantity has.
    """
    if isinstance(quantity, int):
        return Decimal(quantity)
    match = _PATTERN.fullmatch(quantity) if len(quantity) <= _MAX_LENGTH else None
    if match is None:
        raise ValueError(f"not a Kubernetes quantity: {quantity[:_MAX_LENGTH]!r}")
    number, suffix, exponent = match.groups()
    if exponent is not None:
        return Decimal(number).scaleb(int(exponent))
    return Decimal(number) * _FACTORS[suffix or ""]


def compare(left: str | int, right: str | int) -> int:
    """Return -1, 0 or 1 as `left` is less than, equal to or greater than `right`; "1Gi" equals "1024Mi"."""
    a, b = parse(left), parse(right)
    return (a > b) - (a < b)
