"""NodeClaim and Machine look the same to everything behind the view."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kaito_api import labels
from kaito_api.machine import Machine
from kaito_api.nodeclaim import NodeClaim
from workspace_controller.claims import view, views

KINDS = [(NodeClaim, ""), (Machine, "Machine")]
READY = {"type": "Ready", "status": "True"}


def make(kind: type, conditions: list[dict[str, Any]], **metadata: Any) -> Any:
    owned = {labels.WORKSPACE: "phi", labels.WORKSPACE_NAMESPACE: "team"}
    meta = {"name": "w1", "uid": "u", "labels": owned, "annotations": {labels.WORKSPACE_UID: "ws"}, **metadata}
    spec = {"nodeClassRef": {"group": "g", "kind": "k", "name": "n"}, "requirements": []}
    status = {"nodeName": "n1", "providerID": "azure:///1", "conditions": conditions}
    return msgspec.convert({"metadata": meta, "spec": spec, "status": status}, kind)


@pytest.mark.parametrize(("kind", "prefix"), KINDS)
def test_identity_and_readiness(kind: type, prefix: str) -> None:
    found = view(make(kind, [READY]))
    assert (found.workspace, found.workspace_uid) == (("team", "phi"), "ws")
    assert (found.ready, found.node_name, found.provider_id, found.blocker) == (True, "n1", "azure:///1", None)
    assert not view(make(kind, [READY], deletionTimestamp="2026-11-21T12:00:00Z")).ready
    assert not view(make(kind, [{**READY, "status": "Unknown"}])).ready
    assert view(make(kind, [], labels={}, annotations={})).workspace == ("", "")


@pytest.mark.parametrize(("kind", "prefix"), KINDS)
def test_the_first_step_that_says_something_blocks(kind: type, prefix: str) -> None:
    steps = [
        {"type": f"{prefix}Initialized", "status": "Unknown", "reason": "NodeNotReady"},
        {"type": f"{prefix}Launched", "status": "Unknown", "reason": "AwaitingReconciliation"},
        {"type": f"{prefix}Registered", "status": "False", "reason": "MultipleNodesFound"},
    ]
    blocker = view(make(kind, steps)).blocker
    assert blocker is not None
    assert blocker.reason == "MultipleNodesFound"
    assert view(make(kind, steps[1:2])).blocker is None


def test_views_are_in_name_order() -> None:
    claims = [make(NodeClaim, [], name=name) for name in ("b", "a")]
    assert [found.key.name for found in views(claims)] == ["a", "b"]
