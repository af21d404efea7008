"""Pods to the one failure that is shown: failures.yaml is the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kaito_api.core import Node, Pod
from workspace_controller.failures import MESSAGE_LIMIT, diagnose

CASES = yaml.safe_load((Path(__file__).parent / "failures.yaml").read_text())


def pod(changes: dict[str, Any]) -> Pod:
    return msgspec.convert({**changes, "metadata": {"name": "phi-0", **changes.get("metadata", {})}}, Pod)


@pytest.mark.parametrize("case", CASES, ids=[case["about"] for case in CASES])
def test_failure_shown(case: dict[str, Any]) -> None:
    nodes = [msgspec.convert(node, Node) for node in case.get("nodes", [])]
    found = diagnose([pod(changes) for changes in case["pods"]], nodes)
    shown = f"{found.reason}: {found.message}" if found is not None else None
    if case["shows"] is None:
        assert shown is None
    else:
        assert shown is not None
        assert shown.startswith(case["shows"])


@given(st.text(max_size=5000), st.integers(min_value=0, max_value=255))
def test_whatever_a_container_says_the_message_is_short_and_on_one_line(text: str, exit_code: int) -> None:
    ended = {"exitCode": exit_code, "message": text}
    found = diagnose([pod({"status": {"containerStatuses": [{"name": "a", "state": {"terminated": ended}}]}})])
    assert (found is None) == (exit_code == 0)
    if found is not None:
        assert len(found.message) <= MESSAGE_LIMIT
        assert "\n" not in found.message
