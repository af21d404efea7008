"""Where things lie: the repository, the cache of built programs, the state of what runs."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[4]
"""The checkout; this package is a development tool and is always installed from it in editable form."""


def cache_root() -> Path:
    """The folder of what is costly to make and safe to keep: $KAITO_CACHE, else ~/.cache/kaito."""
    return Path(os.environ.get("KAITO_CACHE") or Path.home() / ".cache" / "kaito")


def state_root() -> Path:
    """The folder of what runs now: $KAITO_STATE, else ~/.local/state/kaito; one cluster a machine, not a checkout."""
    return Path(os.environ.get("KAITO_STATE") or Path.home() / ".local" / "state" / "kaito")
