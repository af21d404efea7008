"""Which format a file has, told by its content from an allow-list; its name decides nothing."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from enum import StrEnum
from pathlib import Path
from typing import IO, Final

import msgspec

HEAD_BYTES: Final = 64 * 1024


class Format(StrEnum):
    """What can be read."""

    PARQUET = "parquet"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


class Detected(msgspec.Struct, frozen=True, kw_only=True):
    """The format, and whether it is packed with gzip."""

    format: Format
    gzip: bool = False
    delimiter: str = ","
    """Of CSV."""


class UnreadableError(ValueError):
    """The file is none that can be read. `str()` says what it seems to be."""


_MAGIC: Final = (
    (b"PK\x03\x04", "a zip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"%PDF", "a PDF document"),
    (b"ARROW1", "an Arrow file"),
    (b"\x80\x04\x95", "a Python pickle"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\xff\xfe", "UTF-16 text: convert it to UTF-8"),
    (b"\xfe\xff", "UTF-16 text: convert it to UTF-8"),
    (b"version https://git-lfs", "a Git LFS pointer, not the data behind it"),
)
_KNOWN: Final = "parquet, json, jsonl, csv, or one of these in gzip"
_DELIMITERS: Final = (",", "\t", ";")


def detect(path: Path) -> Detected:
    """Look into the file. Raises UnreadableError."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        packed = head[:2] == b"\x1f\x8b"
        if packed:
            file.seek(0)
            head = _unpacked_head(file)
    whole = not packed and path.stat().st_size <= HEAD_BYTES
    found = judge(head, whole=whole)
    if packed and found.format is Format.PARQUET:
        raise UnreadableError("it is a parquet file inside gzip: parquet is compressed by itself, so leave gzip out")
    return msgspec.structs.replace(found, gzip=packed)


def judge(head: bytes, *, whole: bool) -> Detected:
    """Tell the format by a file's first bytes; `whole` if that is all of them. Pure. Raises UnreadableError."""
    if not head.strip():
        raise UnreadableError("it is empty")
    if head.startswith(b"PAR1"):
        return Detected(format=Format.PARQUET)
    for magic, what in _MAGIC:
        if head.startswith(magic):
            raise UnreadableError(f"it is {what}; needed is {_KNOWN}")
    if head[257:262] == b"ustar":
        raise UnreadableError(f"it is a tar archive; needed is {_KNOWN}")
    text = _text(head, whole=whole)
    start = text.lstrip()
    if start[:1] == "<":
        kind = "a web page" if "<html" in start[:2000].lower() or start[:9].lower() == "<!doctype" else "XML"
        raise UnreadableError(f"it is {kind}, not data: check the address; needed is {_KNOWN}")
    if start[:1] == "[":
        return Detected(format=Format.JSON)
    if start[:1] == "{":
        return Detected(format=_json_kind(start, whole=whole))
    return Detected(format=Format.CSV, delimiter=_delimiter(text))


def _text(head: bytes, *, whole: bool) -> str:
    if b"\x00" in head:
        raise UnreadableError(f"it is binary, in no format known here; needed is {_KNOWN}")
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # A cut in the middle of a character is no fault of the file.
        if not whole and len(head) - error.start < 4:
            return head[: error.start].decode("utf-8-sig")
        raise UnreadableError(f"it is not UTF-8 text (byte {error.start}): convert it to UTF-8") from error


def _json_kind(start: str, *, whole: bool) -> Format:
    """One object over many lines, or one object a line?"""
    line, newline, rest = start.partition("\n")
    first = _decoded(line)
    if first is None:
        # A first object too long for the head is a line; one that breaks off at a newline is spread over lines, or broken.
        return Format.JSON if newline and not _objects(rest, whole=whole) else Format.JSONL
    if rest.strip() or not whole:
        return Format.JSONL
    holds_rows = isinstance(first, dict) and any(
        isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
        for key, value in first.items()
        if key in ("data", "rows", "train")
    )
    return Format.JSON if holds_rows else Format.JSONL


def _decoded(line: str) -> object:
    """What the line holds; None where that is nothing whole."""
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def _objects(text: str, *, whole: bool) -> bool:
    """Whether most lines are an object each."""
    lines = [line for line in text.split("\n")[: None if whole else -1] if line.strip()]
    return 2 * sum(isinstance(_decoded(line), dict) for line in lines) > len(lines)


def _delimiter(text: str) -> str:
    """The delimiter that gives the header more than one column. Raises UnreadableError for prose."""
    header = re.split(r"[\r\n]", text, maxsplit=1)[0]
    counted = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in _DELIMITERS}
    best = max(_DELIMITERS, key=lambda mark: counted[mark])
    if counted[best] > 1 or header.strip().strip('"').lower() in ("text", "content"):
        return best
    raise UnreadableError(f"it looks like plain text without columns; needed is {_KNOWN}")


def _unpacked_head(file: IO[bytes]) -> bytes:
    try:
        with gzip.open(file) as unpacked:
            return unpacked.read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(f"its gzip wrapping is damaged: {error}") from error
