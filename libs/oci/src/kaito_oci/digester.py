"""Hashing one block behind the bytes: while a block is hashed the next one is received and written.

OpenSSL's hashing lets go of the interpreter lock, so on two cores the digest of a download costs next to no time.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from kaito_oci import digest as digests

if TYPE_CHECKING:
    from hashlib import _Hash

_WORTH_A_THREAD = 256 * 1024


class Digester:
    """A running hash; at most one block waits for it."""

    def __init__(self, state: _Hash) -> None:
        self._state = state
        self._pool: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def update(self, block: bytes) -> None:
        """Hash a block after those before it."""
        self._settle()
        if len(block) < _WORTH_A_THREAD:
            self._state.update(block)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="kaito-oci-digest")
        self._pending = self._pool.submit(self._state.update, block)

    def result(self) -> str:
        """The digest of everything so far, as `algorithm:hex`."""
        self._settle()
        return digests.of(self._state)

    def close(self) -> None:
        """End the thread."""
        self._settle()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
