"""The API keys that clients may use: the files of a mounted Secret, read again when they change.

Only digests are kept. A key stands in no log line, no report and no environment.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from kubecore.clock import Clock

LOOK_SECONDS: Final = 1.0
"""Longest time that a changed file goes unnoticed. A look costs one `stat` for each key, on a file system in memory."""
_ATTEMPTS: Final = 2
"""Kubelet swaps the whole folder under the reader, who then reads the new one."""
_HIDDEN: Final = ".."
"""How kubelet's own entries begin; no key of a Secret may."""
_logger = logging.getLogger(__name__)

Signature = tuple[tuple[str, int, int, int], ...]


def digests(values: Mapping[str, bytes]) -> tuple[frozenset[bytes], tuple[str, ...]]:
    """Return the digests of the keys in a Secret's values, and the names of the values that can be no key.

    White space around a key is no part of it: files made with an editor end with a line break. What is empty, or could not
    be sent in a header, is no key.
    """
    keys, unusable = set(), []
    for name, value in sorted(values.items()):
        key = value.strip()
        if key and all(0x20 < byte < 0x7F for byte in key):
            keys.add(hashlib.sha256(key).digest())
        else:
            unusable.append(name)
    return frozenset(keys), tuple(unusable)


def accepts(known: Iterable[bytes], presented: bytes) -> bool:
    """Return whether `presented` is one of the keys, in a time that tells nothing about any of them."""
    digest = hashlib.sha256(presented).digest()
    found = False
    for key in known:
        found |= hmac.compare_digest(key, digest)
    return found


class ApiKeys:
    """The keys in a folder. Belongs to one event loop; `refresh` before each use."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._signature: Signature | None = None
        self._known: frozenset[bytes] = frozenset()
        self._next_look = float("-inf")
        self._problem = ""
        """What kept the folder from being read at the last look."""
        self._listeners: list[Callable[[bool], None]] = []

    @property
    def present(self) -> bool:
        """Whether there is any key."""
        return bool(self._known)

    def listen(self, changed: Callable[[bool], None]) -> None:
        """Call `changed` with `present` now, and whenever it turns."""
        self._listeners.append(changed)
        changed(self.present)

    def accepts(self, presented: bytes) -> bool:
        """Return whether `presented` is a key."""
        return accepts(self._known, presented)

    def refresh(self) -> None:
        """Look at the folder, unless that was done a moment ago. What cannot be read holds no keys."""
        now = self._clock.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        problem = ""
        for _ in range(_ATTEMPTS):
            try:
                self._look()
            except OSError as error:
                problem = str(error)
            else:
                self._problem = ""
                return
        if problem != self._problem:
            _logger.warning("API keys cannot be read", extra={"folder": str(self._folder), "error": problem})
        self._problem = problem
        self._signature = None
        self._take(frozenset())

    def _look(self) -> None:
        paths = sorted(path for path in self._folder.iterdir() if not path.name.startswith(_HIDDEN) and path.is_file())
        signature = tuple((path.name, *_version(path)) for path in paths)
        if signature == self._signature:
            return
        known, unusable = digests({path.name: path.read_bytes() for path in paths})
        self._signature = signature
        extra = {"keys": len(known), "unusable": list(unusable)}
        (_logger.warning if unusable or not known else _logger.info)("API keys read", extra=extra)
        self._take(known)

    def _take(self, known: frozenset[bytes]) -> None:
        before, self._known = self.present, known
        if before != self.present:
            for listener in self._listeners:
                listener(self.present)


def _version(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns, found.st_size
