"""Bounds of one pull and the patience of one connection. Every number has a unit and a reason."""

from __future__ import annotations

import msgspec

MIB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a pull may cost. Hostile content is refused when it passes one of these, never stored whole first."""

    max_bytes: int = 1024 * 1024 * MIB
    """Unpacked bytes of all files together (1 TiB: larger than any published model)."""
    max_files: int = 20_000
    """Files and folders written."""
    max_layers: int = 2_000
    """Layers of a manifest, manifests of an index."""
    max_manifest_bytes: int = 4 * MIB
    """Size of a manifest; registries themselves stop at 4 MiB."""
    max_ratio: int = 200
    """Unpacked bytes per compressed byte of one layer; float weights stay under 2, text under 20."""
    ratio_floor: int = 64 * MIB
    """Unpacked bytes under which the ratio is not looked at (small layers of zeros are harmless)."""
    parallel: int = 3
    """Raw blobs downloaded at the same time, as oras-go does."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a registry may be slow or broken, in seconds."""

    connect: float = 10.0
    """TCP and TLS handshake."""
    head: float = 60.0
    """From the end of the request to the end of the response's headers, however they trickle."""
    stall: float = 30.0
    """A body slower than `min_rate` over this time is a broken connection; also the longest single silence."""
    commit: float = 300.0
    """From the end of an upload to the registry's answer: object stores copy the whole blob before they say yes."""
    min_rate: int = 1024
    """Bytes a second below which a body counts as stalled."""
    attempts: int = 5
    """Tries of one request, and breaks of one blob in a row; a row ends once as much came as `min_rate` brings in `stall`, and
    in the time since its first break."""
    backoff: float = 0.5
    """First pause between tries; doubles, with jitter, up to `backoff_cap`."""
    backoff_cap: float = 20.0
    """Longest pause that we choose, and the longest Retry-After that we obey within one call."""
