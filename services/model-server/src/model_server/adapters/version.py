"""One version of an adapter: what it is called by clients, what bytes it has, how strongly it acts. Pure.

The engine compares adapters by name only, keys its prefix cache by name and path, and reads the folder again when an
adapter was evicted. So a version has an engine name and a folder of its own, neither is ever reused for other bytes, and
two versions of one adapter can serve side by side while one replaces the other.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

SHORT_DIGEST: Final = 12
MAX_STRENGTH: Final = Decimal(1)
MAX_STRONG: Final = Decimal(4)
"""Where the Workspace's annotation allows more than 1. Beyond that nothing but noise comes out."""


class Version(msgspec.Struct, frozen=True):
    """An adapter by public name, content digest and normalised strength."""

    name: str
    digest: str
    strength: str

    @property
    def short(self) -> str:
        """First characters of the digest, without the algorithm."""
        return self.digest.rpartition(":")[2][:SHORT_DIGEST]

    @property
    def engine_name(self) -> str:
        """The engine's name for it, which no client sees."""
        return f"{self.name}@{self.short}-s{self.strength}"


def normalise_strength(text: str, *, strong: bool) -> str:
    """Return `text` in its shortest form ("1.0" and "" are "1"). Raises ValueError with words for the user."""
    limit = MAX_STRONG if strong else MAX_STRENGTH
    try:
        value = Decimal(text or "1")
    except InvalidOperation as error:
        raise ValueError(f"strength {text!r} is not a number") from error
    if not value.is_finite() or not 0 <= value <= limit:
        raise ValueError(f"strength {text} must be between 0 and {limit}")
    shortest = f"{value.normalize():f}"
    return "0" if shortest == "-0" else shortest
