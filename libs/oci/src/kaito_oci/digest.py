"""Digests of content: the algorithms that the image spec registers, and nothing weaker."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kaito_oci.errors import InvalidManifest
from kaito_oci.reference import DIGEST

if TYPE_CHECKING:
    from hashlib import _Hash

EMPTY_SHA256 = f"sha256:{hashlib.sha256().hexdigest()}"


def hasher(digest: str) -> _Hash:
    """A fresh hash of the digest's algorithm (OCI image spec 1.1, descriptor.md). Raises InvalidManifest."""
    if not DIGEST.fullmatch(digest):
        raise InvalidManifest(f"{digest[:80]!r} is not a sha256 or sha512 digest")
    return hashlib.new(digest.partition(":")[0])


def of(state: _Hash) -> str:
    """The digest of what was hashed: `algorithm:hex`."""
    return f"{state.name}:{state.hexdigest()}"


def sha256(content: bytes) -> str:
    """The canonical digest of some bytes."""
    return of(hashlib.sha256(content))
