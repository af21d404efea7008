"""What a row means: a conversation or raw text, recognised by its columns or told by the configuration. Pure.

A prompt with its completion becomes a conversation of two turns: that is how the served model will be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Any, Final

import msgspec

from tuner.config.recipe import DatasetSettings


class Shape(StrEnum):
    """Known layouts of a row."""

    MESSAGES = "messages"
    SHAREGPT = "sharegpt"
    PROMPT_COMPLETION = "prompt/completion"
    ALPACA = "alpaca"
    DOLLY = "dolly"
    TEXT = "text"
    COLUMNS = "columns"
    """Those that the configuration names."""


class Message(msgspec.Struct, frozen=True):
    """One turn."""

    role: str
    content: str


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One training sample: turns, or raw text where there are none."""

    messages: tuple[Message, ...] = ()
    text: str = ""
    tools: Any = None


class RowError(ValueError):
    """The row cannot be used. `str()` is short: it is counted, not shown a million times."""


class ShapeError(ValueError):
    """The columns match nothing. `str()` says which there are and what is known."""


Converter = Callable[[Mapping[str, Any]], Sample]

_MESSAGE_COLUMNS: Final = ("messages", "conversation", "conversations", "dialog", "chat")
_PAIRS: Final = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("input", "output"),
    ("query", "response"),
)
_TEXT_COLUMNS: Final = ("text", "content")
_ROLES: Final = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "developer": "system",
}
_CALLS: Final = ("tool_calls", "function_call")
_FORMS: Final = (
    "messages, conversations, prompt/completion, instruction/input/output, instruction/context/response, text"
)


def recognise(columns: Sequence[str], settings: DatasetSettings) -> tuple[Shape, Converter]:
    """Return the shape of rows with these columns, and what makes a sample of one. Raises ShapeError."""
    have = set(columns)
    named = [
        name
        for name in (
            settings.messages_column,
            settings.context_column,
            settings.response_column,
            settings.text_column,
        )
        if name
    ]
    if missing := [name for name in named if name not in have]:
        raise ShapeError(f"there is no column {missing[0]!r}, which DatasetConfig names; there are {_listed(columns)}")
    if named:
        return Shape.COLUMNS, _configured(settings)
    for column in _MESSAGE_COLUMNS:
        if column in have:
            shape = Shape.SHAREGPT if column == "conversations" else Shape.MESSAGES
            return shape, partial(_conversation, column=column)
    if {"instruction", "output"} <= have:
        return Shape.ALPACA, partial(_instruction, context="input", answer="output")
    if {"instruction", "response"} <= have:
        return Shape.DOLLY, partial(_instruction, context="context", answer="response")
    for prompt, completion in _PAIRS:
        if {prompt, completion} <= have:
            return Shape.PROMPT_COMPLETION, partial(_pair, prompt=prompt, completion=completion)
    for column in _TEXT_COLUMNS:
        if column in have:
            return Shape.TEXT, partial(_raw, column=column)
    raise ShapeError(
        f"the columns {_listed(columns)} match no known form ({_FORMS}): name them in DatasetConfig "
        "(messages_column, or context_column and response_column, or text_column)"
    )


def _configured(settings: DatasetSettings) -> Converter:
    if settings.messages_column:
        return partial(_conversation, column=settings.messages_column)
    if settings.text_column:
        return partial(_raw, column=settings.text_column)
    if settings.context_column and settings.response_column:
        return partial(_pair, prompt=settings.context_column, completion=settings.response_column)
    return partial(_raw, column=settings.response_column or settings.context_column)


def _conversation(row: Mapping[str, Any], column: str) -> Sample:
    value = row.get(column)
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            raise RowError(f"{column} is text that is not JSON") from error
    if not isinstance(value, list) or not value:
        raise RowError(f"{column} is not a list of turns")
    turns = tuple(_turn(entry) for entry in value)
    if row.get("system") and isinstance(row["system"], str) and turns[0].role != "system":
        turns = (Message("system", row["system"]), *turns)
    return _talk(turns, tools=_tools(row.get("tools")))


def _tools(given: Any) -> Any:
    """The list of tools, for tables that hold it as JSON text; what is none is left to the chat template to refuse."""
    if isinstance(given, str):
        try:
            given = msgspec.json.decode(given)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return given
    return given or None


def _turn(entry: Any) -> Message:
    if not isinstance(entry, dict):
        raise RowError("a turn is not an object")
    if any(entry.get(name) for name in _CALLS):
        raise RowError("a turn calls a tool: calls are not trained on, and without it the turn would be another one")
    role = entry.get("role", entry.get("from"))
    content = entry.get("content", entry.get("value"))
    if isinstance(content, list):  # parts, as vision chats have them
        if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
            raise RowError("a turn holds something that is not text")
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise RowError("a turn has no role or no content")
    known = _ROLES.get(role.lower())
    if known is None:
        raise RowError(f"a turn has the unknown role {role[:30]!r}")
    return Message(known, content)


def _talk(turns: tuple[Message, ...], tools: Any = None) -> Sample:
    if not any(turn.role == "assistant" and turn.content.strip() for turn in turns):
        raise RowError("no turn of the assistant")
    return Sample(messages=turns, tools=tools)


def _instruction(row: Mapping[str, Any], context: str, answer: str) -> Sample:
    asked, given = _string(row, "instruction"), row.get(context)
    if isinstance(given, str) and given.strip():
        asked = f"{asked}\n\n{given}"
    return _talk((Message("user", asked), Message("assistant", _string(row, answer))))


def _pair(row: Mapping[str, Any], prompt: str, completion: str) -> Sample:
    asked, said = row.get(prompt), row.get(completion)
    if isinstance(asked, list) and isinstance(said, list):
        return _talk(tuple(_turn(entry) for entry in [*asked, *said]))
    return _talk((Message("user", _string(row, prompt)), Message("assistant", _string(row, completion))))


def _raw(row: Mapping[str, Any], column: str) -> Sample:
    return Sample(text=_string(row, column))


def _string(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise RowError(f"{column} is not text" if value is not None else f"{column} is missing")
    if not value.strip():
        raise RowError(f"{column} is empty")
    return value


def _listed(columns: Sequence[str]) -> str:
    names = ", ".join(repr(name) for name in list(columns)[:20])
    return names or "none"
