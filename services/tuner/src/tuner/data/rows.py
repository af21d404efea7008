"""The rows of a file, one after another, whatever its format. A row that cannot be read is a BadRow, not an end."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from tuner.data.detect import Detected, Format, UnreadableError

MAX_LINE: Final = 16 * 1024 * 1024
"""Characters of one line; a longer one is a broken row."""
MAX_JSON: Final = 2 * 1024**3
"""Bytes of a JSON file that is one value, which must be read at once. Use jsonl for more."""
MAX_UNPACKED: Final = 64 * 1024**3
_BATCH: Final = 1024
_NOT_UTF8: Final = "not UTF-8 text"

Row = dict[str, Any]


class BadRow(msgspec.Struct, frozen=True):
    """A row that cannot be used, and why."""

    why: str


def read(path: Path, detected: Detected) -> Iterator[Row | BadRow]:
    """Yield the rows in order. Raises UnreadableError when the file as a whole is damaged."""
    match detected.format:
        case Format.PARQUET:
            yield from _parquet(path)
        case Format.JSON:
            with _opened(path, detected) as file:
                yield from _json(file)
        case Format.JSONL:
            with _opened(path, detected) as file:
                yield from _jsonl(file)
        case Format.CSV:
            with _opened(path, detected) as file:
                yield from _csv(file, detected.delimiter)


class _Bounded(io.RawIOBase):
    """Unpacked gzip, with an end: a few kilobytes can hold terabytes of zeros."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = MAX_UNPACKED

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer. Raises UnreadableError."""
        try:
            data = self._file.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise UnreadableError(f"its gzip wrapping is damaged: {error}") from error
        self._left -= len(data)
        if self._left < 0:
            raise UnreadableError(f"it unpacks to more than {MAX_UNPACKED} bytes")
        buffer[: len(data)] = data
        return len(data)


def _opened(path: Path, detected: Detected) -> IO[bytes]:
    if not detected.gzip:
        return path.open("rb")
    return io.BufferedReader(_Bounded(gzip.open(path)), 1 << 20)  # type: ignore[arg-type]


def _parquet(path: Path) -> Iterator[Row | BadRow]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            # Dates and times are no text, and some have no value in Python: the year 10000, a time zone that nobody knows.
            columns = [field.name for field in file.schema_arrow if not pyarrow.types.is_temporal(field.type)]
            for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
                yield from _rows_of(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise UnreadableError(f"it is a damaged parquet file: {error}") from error


def _rows_of(batch: Any) -> Iterator[Row | BadRow]:
    """The rows of a batch; where one of its texts cannot be read, row by row."""
    found = _values(batch)
    if isinstance(found, BadRow):
        singly = (_values(batch.slice(number, 1)) for number in range(batch.num_rows))
        found = [row for rows in singly for row in ([rows] if isinstance(rows, BadRow) else rows)]
    yield from found


def _values(batch: Any) -> list[Row | BadRow] | BadRow:
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return BadRow(_NOT_UTF8)
    except (ValueError, OverflowError):
        return BadRow("a value that Python cannot hold")


def _json(file: IO[bytes]) -> Iterator[Row | BadRow]:
    data = file.read(MAX_JSON + 1)
    if len(data) > MAX_JSON:
        raise UnreadableError(f"it is one JSON value of more than {MAX_JSON} bytes: write one object a line (jsonl)")
    try:
        content = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except UnicodeDecodeError as error:
        raise UnreadableError(f"it is not UTF-8 text ({error.reason}): convert it to UTF-8") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise UnreadableError(f"it is not valid JSON: {error}") from error
    if isinstance(content, dict):
        rows = next((content[key] for key in ("data", "rows", "train") if isinstance(content.get(key), list)), None)
        content = [content] if rows is None else rows
    if not isinstance(content, list):
        raise UnreadableError("it is a JSON value, not a list of objects")
    for entry in content:
        yield entry if isinstance(entry, dict) else BadRow("not an object")


def _jsonl(file: IO[bytes]) -> Iterator[Row | BadRow]:
    first = True
    while line := file.readline(MAX_LINE):
        if first:
            line, first = line.removeprefix(b"\xef\xbb\xbf"), False
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                continue
            yield BadRow(f"a line of more than {MAX_LINE} bytes")
            continue
        if not line.strip():
            continue
        try:
            entry = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield BadRow("not valid JSON")
            continue
        yield entry if isinstance(entry, dict) else BadRow("not an object")


def _csv(file: IO[bytes], delimiter: str) -> Iterator[Row | BadRow]:
    csv.field_size_limit(MAX_LINE)
    # Bytes that are not UTF-8 become lone surrogates: with a mark in their place the row would be trained on as if it were whole.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    header = _header(reader)
    while True:
        why, before = "", reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells, why = [], f"not valid CSV: {error}"
        if cells and len(cells) != len(header):
            why = f"{len(cells)} cells where the header has {len(header)}"
        elif not all(map(_whole, cells)):
            why = _NOT_UTF8
        if why:
            # A quotation mark without its end takes the lines below along: each of them is a row that is lost.
            yield from [BadRow(why)] * (reader.line_num - before)
        elif cells:
            yield dict(zip(header, cells, strict=True))


def _whole(text: str) -> bool:
    """Whether the text can be written as UTF-8: a lone surrogate cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _header(reader: Iterator[list[str]]) -> list[str]:
    """The names of the columns. Raises UnreadableError."""
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise UnreadableError(f"the header of its CSV cannot be read: {error}") from error
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise UnreadableError(f"its CSV has the column {twice!r} twice: rename one")
    return names
