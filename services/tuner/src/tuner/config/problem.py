"""One thing that is wrong in the file, and the words for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """`path` within the file ("" for the file as a whole) and what is wrong there, with what to do."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path} {self.message}".strip()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean A?" for the known name that resembles `word` most, or ""."""
    by_lower = {name.lower(): name for name in sorted(known)}
    match = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[match[0]]}?" if match else ""
