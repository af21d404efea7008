"""Values as text, by the names that Grafana has for units."""

from __future__ import annotations

from collections.abc import Sequence

_SHORT = ((1e9, " Bil"), (1e6, " Mil"), (1e3, " K"), (1, ""))
_BYTES = ((2**40, " TiB"), (2**30, " GiB"), (2**20, " MiB"), (2**10, " KiB"), (1, " B"))
_SECONDS = ((3600, " h"), (60, " min"), (1, " s"), (1e-3, " ms"), (1e-6, " µs"))
_SUFFIX = {"ops": " ops/s", "reqps": " req/s"}


def text(value: float, unit: str) -> str:
    """Return a value with three significant digits and its unit. ValueError for a unit that no dashboard of ours has had."""
    if unit == "short":
        return _scaled(value, _SHORT)
    if unit == "bytes":
        return _scaled(value, _BYTES)
    if unit == "s":
        return _scaled(value, _SECONDS) if value else "0 s"
    if unit == "percentunit":
        return f"{_number(value * 100)} %"
    if unit == "currencyUSD":
        return f"${_number(value)}"
    if unit in _SUFFIX:
        return _scaled(value, _SHORT) + _SUFFIX[unit]
    raise ValueError(f"no way to write the unit {unit!r}: add it to tools/drawing/units.py")


def _scaled(value: float, scale: Sequence[tuple[float, str]]) -> str:
    size, suffix = next(((size, suffix) for size, suffix in scale if abs(value) >= size), scale[-1])
    return _number(value / size) + suffix


def _number(value: float) -> str:
    """Three significant digits, never with an exponent; whole numbers keep all of theirs."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    plain = f"{float(f'{value:.3g}'):.9f}"
    return plain.rstrip("0").rstrip(".")
