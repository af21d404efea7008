from __future__ import annotations

from typing import Any

import pytest

from tuner.config.recipe import DatasetSettings
from tuner.data.shapes import Message, RowError, Sample, Shape, ShapeError, recognise

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHARED = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
TALK = Sample(messages=(Message("user", "q"), Message("assistant", "a")))
AUTO = DatasetSettings()


def convert(row: dict[str, Any], settings: DatasetSettings = AUTO) -> tuple[Shape, Sample]:
    shape, make = recognise(list(row), settings)
    return shape, make(row)


@pytest.mark.parametrize(
    ("row", "shape", "sample"),
    [
        ({"messages": CHAT}, Shape.MESSAGES, TALK),
        ({"messages": '[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]'}, Shape.MESSAGES, TALK),
        ({"conversations": SHARED, "id": 1}, Shape.SHAREGPT, TALK),
        (
            {"conversations": SHARED, "system": "s"},
            Shape.SHAREGPT,
            Sample(messages=(Message("system", "s"), *TALK.messages)),
        ),
        (
            {"messages": [CHAT[0], {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]},
            Shape.MESSAGES,
            TALK,
        ),
        ({"prompt": "q", "completion": "a"}, Shape.PROMPT_COMPLETION, TALK),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, Shape.PROMPT_COMPLETION, TALK),
        ({"question": "q", "answer": "a"}, Shape.PROMPT_COMPLETION, TALK),
        ({"instruction": "q", "input": "", "output": "a"}, Shape.ALPACA, TALK),
        (
            {"instruction": "q", "input": "i", "output": "a"},
            Shape.ALPACA,
            Sample(messages=(Message("user", "q\n\ni"), Message("assistant", "a"))),
        ),
        ({"instruction": "q", "context": None, "response": "a", "category": "x"}, Shape.DOLLY, TALK),
        ({"text": "t"}, Shape.TEXT, Sample(text="t")),
    ],
)
def test_known_shapes(row: dict[str, Any], shape: Shape, sample: Sample) -> None:
    assert convert(row) == (shape, sample)


@pytest.mark.parametrize(
    ("settings", "row", "sample"),
    [
        (DatasetSettings(messages_column="talk"), {"talk": CHAT, "text": "x"}, TALK),
        (DatasetSettings(context_column="ask", response_column="say"), {"ask": "q", "say": "a", "messages": []}, TALK),
        (DatasetSettings(text_column="body"), {"body": "t", "messages": CHAT}, Sample(text="t")),
        (DatasetSettings(response_column="body"), {"body": "t"}, Sample(text="t")),
    ],
)
def test_named_columns_win(settings: DatasetSettings, row: dict[str, Any], sample: Sample) -> None:
    assert convert(row, settings) == (Shape.COLUMNS, sample)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"messages": []}, "not a list of turns"),
        ({"messages": "words"}, "not JSON"),
        ({"messages": CHAT[:1]}, "no turn of the assistant"),
        ({"messages": [CHAT[0], {"role": "assistant", "content": "  "}]}, "no turn of the assistant"),
        ({"messages": [{"role": "owl", "content": "hu"}]}, "unknown role 'owl'"),
        ({"messages": ["x"]}, "not an object"),
        ({"messages": [{"role": "user", "content": None}]}, "no role or no content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not text"),
        ({"prompt": "", "completion": "a"}, "prompt is empty"),
        ({"prompt": "q", "completion": None}, "completion is missing"),
        ({"prompt": "q", "completion": 7}, "completion is not text"),
        ({"text": " "}, "text is empty"),
    ],
)
def test_rows_that_cannot_be_used(row: dict[str, Any], why: str) -> None:
    with pytest.raises(RowError, match=why):
        convert(row)


def test_columns_that_match_nothing_are_listed() -> None:
    with pytest.raises(ShapeError, match="'foo', 'bar' match no known form"):
        recognise(["foo", "bar"], AUTO)


def test_a_named_column_that_is_missing() -> None:
    with pytest.raises(ShapeError, match=r"no column 'say'.*there are 'ask'"):
        recognise(["ask"], DatasetSettings(context_column="ask", response_column="say"))
