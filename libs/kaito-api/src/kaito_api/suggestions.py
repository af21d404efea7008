"""Nearest known names for a misspelt one, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], *, limit: int = 3) -> tuple[str, ...]:
    """Return up to `limit` known names that resemble `word`, best first; case does not count."""
    by_lower = {name.lower(): name for name in sorted(known)}
    return tuple(by_lower[match] for match in difflib.get_close_matches(word.lower(), by_lower, n=limit, cutoff=0.6))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean A or B?", or "" where nothing resembles `word`."""
    names = nearest(word, known)
    return f"; did you mean {' or '.join(names)}?" if names else ""
