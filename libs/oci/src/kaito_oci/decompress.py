"""Layers as plain tar streams, whatever their compression, with memory and expansion bounded."""

from __future__ import annotations

import zlib
from typing import Any

import zstandard

from kaito_oci.errors import UnsafeArchive
from kaito_oci.limits import Limits
from kaito_oci.tar import Source

_IN = 256 * 1024
_OUT = 1024 * 1024
_ZSTD_WINDOW = 2**26  # 64 MiB; RFC 8878 asks decoders for 8 MiB, `zstd --long` writes 128 MiB


def opened(source: Source, compression: str) -> Source:
    """The uncompressed bytes of `source`; `compression` is "", "gzip" or "zstd"."""
    if compression == "gzip":
        return _Gzip(source)
    if compression == "zstd":
        return _Zstd(source)
    return source


class Bounded:
    """Counts what comes out and refuses what only a bomb expands to."""

    def __init__(self, source: Source, compressed: int, limits: Limits) -> None:
        self._source = source
        self._most = max(limits.ratio_floor, compressed * limits.max_ratio)
        self._count = 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes. Raises UnsafeArchive past the ratio."""
        chunk = self._source.read(size)
        self._count += len(chunk)
        if self._count > self._most:
            raise UnsafeArchive(f"the layer expands to more than {self._most} bytes: a compression bomb")
        return chunk


class _Gzip:
    """zlib with a bounded output per step; members follow each other (RFC 1952 section 2.2)."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._pending = b""

    def read(self, size: int) -> bytes:
        while True:
            if self._inflate.eof:
                self._pending = self._inflate.unused_data.lstrip(b"\0") or self._source.read(_IN)
                if not self._pending:
                    return b""
                self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
            block = self._pending or self._source.read(_IN)
            if not block:
                raise UnsafeArchive("the layer's gzip stream ends early")
            try:
                chunk = self._inflate.decompress(block, min(size, _OUT))
            except zlib.error as error:
                raise UnsafeArchive("the layer is not valid gzip") from error
            self._pending = self._inflate.unconsumed_tail
            if chunk:
                return chunk


class _Zstd:
    def __init__(self, source: Any) -> None:
        context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._reader: Any = context.stream_reader(source, read_size=_IN, read_across_frames=True)

    def read(self, size: int) -> bytes:
        try:
            chunk: bytes = self._reader.read(min(size, _OUT))
        except zstandard.ZstdError as error:
            raise UnsafeArchive(f"the layer is not valid zstd, or needs a window over {_ZSTD_WINDOW} bytes") from error
        return chunk
