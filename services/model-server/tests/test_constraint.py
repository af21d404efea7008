"""Which field of a request says what form the answer must have, on vLLM's own request types."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from model_server.lifecycle import CURRENT, Lifecycle
from model_server.routes import constraint


def kind(name: str | None) -> SimpleNamespace:
    return SimpleNamespace(type=name)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ""),
        ({"response_format": None, "structured_outputs": None, "text": None, "tools": None}, ""),
        ({"response_format": kind("text")}, ""),
        ({"response_format": kind("json_schema")}, "response_format"),
        ({"structured_outputs": object(), "response_format": kind("json_object")}, "structured_outputs"),
        ({"text": SimpleNamespace(format=None)}, ""),
        ({"text": SimpleNamespace(format=kind("text"))}, ""),
        ({"text": SimpleNamespace(format=kind("json_schema"))}, "text.format"),
        ({"tools": [1], "tool_choice": "auto"}, ""),
        ({"tools": [1], "tool_choice": None}, ""),
        ({"tools": [1], "tool_choice": "required"}, "tools"),
        ({"tools": [1], "tool_choice": kind("function")}, "tools"),
        ({"tools": [], "tool_choice": "required"}, ""),
    ],
)
def test_the_demand_is_found(fields: dict[str, Any], expected: str) -> None:
    assert constraint.demand(SimpleNamespace(**fields)) == expected


def test_only_a_demand_is_blamed() -> None:
    lifecycle = Lifecycle()
    assert constraint.blame() is None, "no HTTP request: nobody to tell"
    with lifecycle.flight():
        constraint.note(SimpleNamespace(response_format=kind("text")))
        assert constraint.blame() is None
        constraint.note(SimpleNamespace(response_format=kind("json_schema")))
        found = constraint.blame()
        assert found is not None
        assert found.field == "response_format"
        assert found.message.startswith("The engine cannot follow response_format: ")
    assert CURRENT.get() is None
