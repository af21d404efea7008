from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tuner.data import rows
from tuner.data.detect import Detected, Format, UnreadableError, detect
from tuner.data.rows import BadRow

ROW = '{"text": "a"}'


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"{ROW}\n{ROW}\n", Detected(format=Format.JSONL)),
        (f"\ufeff{ROW}\n{ROW}", Detected(format=Format.JSONL)),
        (ROW, Detected(format=Format.JSONL)),
        (f"[{ROW}]", Detected(format=Format.JSON)),
        ('{\n  "data": [\n {"text": "a"}]}', Detected(format=Format.JSON)),
        ('{"data": [{"text": "a"}]}', Detected(format=Format.JSON)),
        ("prompt,completion\na,b\n", Detected(format=Format.CSV)),
        ("prompt\tcompletion\na\tb\n", Detected(format=Format.CSV, delimiter="\t")),
        ("prompt;completion\na;b\n", Detected(format=Format.CSV, delimiter=";")),
        ("text\nhello\n", Detected(format=Format.CSV)),
        ('{"text": "' + "ä" * 70_000 + '"}\n', Detected(format=Format.JSONL)),
        (gzip.compress(ROW.encode() * 3, mtime=0), None),
        (gzip.compress(f"{ROW}\n{ROW}\n".encode(), mtime=0), Detected(format=Format.JSONL, gzip=True)),
    ],
)
def test_formats_are_told_by_content(tmp_path: Path, content: str | bytes, expected: Detected | None) -> None:
    path = tmp_path / "misleading.parquet"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    if expected is not None:
        assert detect(path) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"  \n ", "is empty"),
        (b"<!DOCTYPE html><html><body>404", "a web page"),
        (b"\n<html>", "a web page"),
        (b"<?xml version='1.0'?>", "XML"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x80\x04\x95rest", "a Python pickle"),
        (b"ARROW1\x00\x00", "an Arrow file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x00\x01\x02", "binary"),
        ("größer".encode("latin-1"), "not UTF-8"),
        (b"Once upon a time\nthere was\n", "plain text"),
        (b"\x1f\x8b\x08\x00broken", "gzip wrapping is damaged"),
        (gzip.compress(b"PAR1....PAR1", mtime=0), "leave gzip out"),
    ],
)
def test_everything_else_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=words):
        detect(path)


@pytest.mark.parametrize(
    ("content", "good", "bad"),
    [
        (f"{ROW}\nbroken\n\n[1]\n{ROW}", 2, ["not valid JSON", "not an object"]),
        (f"[{ROW}, 7, {ROW}]", 2, ["not an object"]),
        ('{"data": [{"text": "a"}]}', 1, []),
        ('a,b\n1,2\n1\n"x, y","two\nlines"\n', 2, ["1 cells where the header has 2"]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_rows_are_read_and_broken_ones_marked(
    tmp_path: Path, content: str, good: int, bad: list[str], packed: bool
) -> None:
    path = tmp_path / "data"
    path.write_bytes(gzip.compress(content.encode(), mtime=0) if packed else content.encode())
    found = list(rows.read(path, detect(path)))
    assert sum(isinstance(row, dict) for row in found) == good
    assert [row.why for row in found if isinstance(row, BadRow)] == bad


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "rows.json"
    expected = [{"messages": [{"role": "user", "content": str(number)}]} for number in range(3000)]
    parquet.write_table(pyarrow.Table.from_pylist(expected), path)
    assert list(rows.read(path, detect(path))) == expected


def test_a_damaged_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"PAR1" + b"\x07" * 200)
    with pytest.raises(UnreadableError, match="damaged parquet"):
        list(rows.read(path, detect(path)))


def test_a_gzip_that_breaks_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(gzip.compress(f"{ROW}\n".encode() * 100_000, mtime=0)[:-20])
    with pytest.raises(UnreadableError, match="damaged"):
        list(rows.read(path, Detected(format=Format.JSONL, gzip=True)))
