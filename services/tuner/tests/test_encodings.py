"""Text that is not UTF-8, and values that have no place in a sample: a row at most is lost, and never changed silently."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tuner.config.recipe import DatasetSettings
from tuner.data import rows, shapes
from tuner.data.detect import HEAD_BYTES, UnreadableError, detect
from tuner.data.rows import BadRow
from tuner.data.shapes import RowError

NOT_UTF8 = BadRow("not UTF-8 text")
PAIR = {"prompt": "q", "completion": "a"}


def read(path: Path, content: bytes) -> list[Any]:
    path.write_bytes(content)
    return list(rows.read(path, detect(path)))


def test_a_csv_in_another_encoding_is_not_trained_on_with_holes(tmp_path: Path) -> None:
    """The first bytes are plain, so the format is taken for what it seems to be."""
    plain = b"hello,world\n" * (HEAD_BYTES // 12 + 1)
    found = read(tmp_path / "rows", b"prompt,completion\n" + plain + b"caf\xe9,bar\n" + "café,bär\n".encode())
    assert found[-2:] == [NOT_UTF8, {"prompt": "café", "completion": "bär"}]
    assert found.count(NOT_UTF8) == 1


def test_a_json_in_another_encoding_is_named(tmp_path: Path) -> None:
    content = json.dumps([PAIR] * (HEAD_BYTES // 20)).encode()[:-1] + b', {"prompt": "caf\xe9", "completion": "a"}]'
    with pytest.raises(UnreadableError, match=r"not UTF-8 text .*convert it"):
        read(tmp_path / "rows", content)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_named(tmp_path: Path, encoding: str) -> None:
    content = "\ufeff" * (encoding == "utf-16-be") + json.dumps(PAIR)
    with pytest.raises(UnreadableError, match="UTF-16 text: convert it to UTF-8"):
        read(tmp_path / "rows", content.encode(encoding))


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([9223372036854775] * 3, pyarrow.timestamp("ms")),
        pyarrow.array([1] * 3, pyarrow.timestamp("ms", tz="Nowhere/Else")),
        pyarrow.array([2**62] * 3, pyarrow.duration("s")),
        pyarrow.array([datetime.date(2026, 1, 1)] * 3),
    ],
    ids=["the year 292277", "no such time zone", "a long time", "a date"],
)
def test_columns_of_times_play_no_part(tmp_path: Path, column: Any) -> None:
    table = pyarrow.table({"prompt": ["q"] * 3, "completion": ["a"] * 3, "made": column, "score": [1, None, 2]})
    parquet.write_table(table, tmp_path / "rows")
    found = list(rows.read(tmp_path / "rows", detect(tmp_path / "rows")))
    assert found == [{**PAIR, "score": score} for score in (1, None, 2)]


def test_one_text_of_a_parquet_that_is_no_text_is_one_broken_row(tmp_path: Path) -> None:
    whole = pyarrow.array(["q1", "q2", "q3"])
    broken = pyarrow.StringArray.from_buffers(3, whole.buffers()[1], pyarrow.py_buffer(b"q1\xff2q3"))
    parquet.write_table(pyarrow.table({"prompt": broken, "completion": ["a"] * 3}), tmp_path / "rows")
    found = list(rows.read(tmp_path / "rows", detect(tmp_path / "rows")))
    assert found == [{"prompt": "q1", "completion": "a"}, NOT_UTF8, {"prompt": "q3", "completion": "a"}]


def converted(row: dict[str, Any]) -> shapes.Sample:
    _, convert = shapes.recognise(list(row), DatasetSettings())
    return convert(row)


def test_half_a_character_in_json_text_is_one_broken_row() -> None:
    """json.dumps writes it, and no tokenizer takes it."""
    talk = [{"role": "user", "content": "q \ud83d"}, {"role": "assistant", "content": "a"}]
    with pytest.raises(RowError, match="text that is not JSON"):
        converted({"messages": json.dumps(talk)})


CALL = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.mark.parametrize("key", ["tool_calls", "function_call"])
def test_a_turn_that_calls_a_tool_is_not_trained_as_one_that_says_nothing(key: str) -> None:
    ask, last = {"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "Sunny."}
    with pytest.raises(RowError, match="calls a tool"):
        converted({"messages": [ask, {"role": "assistant", "content": "", key: [CALL]}, last]})
    assert len(converted({"messages": [ask, {**last, key: None}]}).messages) == 2


def test_tools_may_be_json_text() -> None:
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    tools = [{"type": "function", "function": {"name": "weather"}}]
    assert converted({"messages": talk, "tools": json.dumps(tools)}).tools == tools
    assert converted({"messages": talk, "tools": "[]"}).tools is None
    assert converted({"messages": talk, "tools": "neither"}).tools == "neither"
