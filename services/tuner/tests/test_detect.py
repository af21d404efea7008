from __future__ import annotations

import gzip
import json
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


def csv_of(lines: list[str]) -> list[str]:
    return ["prompt,completion", *lines]


GOOD: list[str] = [f"q{number},a{number}" for number in range(100)]


@pytest.mark.parametrize(
    ("lines", "good", "bad"),
    [
        (csv_of([*GOOD[:5], 'q,"never closed', *GOOD[5:]]), 5, 96),
        (csv_of([*GOOD[:5], 'q,"opened', *GOOD[5:90], 'q,"closed"', *GOOD[90:]]), 15, 87),
        (csv_of([*GOOD[:5], '"q\nover\nlines","a ""quoted"" word"', *GOOD[5:]]), 101, 0),
        (csv_of([*GOOD[:5], '"cut"off,a', *GOOD[5:]]), 100, 1),
        (csv_of([*GOOD, 'q,"the last line breaks off']), 100, 1),
    ],
    ids=["a quotation mark without end", "one that ends far below", "none at fault", "text after a cell", "a torn end"],
)
def test_lines_that_a_quotation_mark_swallows_are_counted(
    tmp_path: Path, lines: list[str], good: int, bad: int
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    found = list(rows.read(path, detect(path)))
    assert sum(isinstance(row, dict) for row in found) == good
    assert len(found) - good == bad


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize(
    "lines",
    [
        ["prompt,completion", "a,b", "c,d"],
        ['[{"prompt": "a", "completion": "b"},', '{"prompt": "c", "completion": "d"}]'],
    ],
)
def test_line_ends_and_marks_of_other_systems(tmp_path: Path, lines: list[str], start: str, ending: str) -> None:
    path = tmp_path / "rows"
    path.write_bytes((start + ending.join(lines) + ending).encode())
    expected = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    assert list(rows.read(path, detect(path))) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'"prompt,completion\na,b\n', "plain text without columns"),
        (b"prompt,completion,completion\na,b,c\n", "completion.*twice"),
    ],
)
def test_a_csv_whose_header_cannot_be_understood_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=words):
        list(rows.read(path, detect(path)))


DEEP = '{"text": ' + "[" * 20_000 + "]" * 20_000 + "}"


@pytest.mark.parametrize("first", [DEEP, '{"text": NaN}', '{"text": "\\ud800"}', '{"text": "cut of'])
def test_a_broken_first_line_is_one_broken_row(tmp_path: Path, first: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([first, *[ROW] * 5]))
    found = list(rows.read(path, detect(path)))
    assert [isinstance(row, dict) for row in found] == [False, *[True] * 5]


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_object_with_rows_over_many_lines(tmp_path: Path, indent: int | None, count: int) -> None:
    path = tmp_path / "rows.json"
    wanted = [json.loads(ROW)] * count
    text = (
        json.dumps({"data": wanted}, indent=indent) if indent else '{"data": [\n' + ",\n".join([ROW] * count) + "\n]}"
    )
    path.write_text(text)
    assert list(rows.read(path, detect(path))) == wanted


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
