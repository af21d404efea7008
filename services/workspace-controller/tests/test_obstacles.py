"""Whose object stands under a needed name, in words; the other obstacles are in stories/obstacles.yaml."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kaito_api.core import Service
from kaito_api.resources import SERVICES
from kaito_api.workspace import Workspace
from workspace_controller.manifest import manifest
from workspace_controller.observed import ChildId, Observed
from workspace_controller.obstacles import taken_name

WANTED = manifest(SERVICES, {"name": "phi", "namespace": "team"})
UID = "5f0e6b9a-0000-4000-8000-000000000001"


def owner(kind: str, name: str, uid: str) -> dict[str, Any]:
    return {"apiVersion": "v", "kind": kind, "name": name, "uid": uid, "controller": True}


@pytest.mark.parametrize(
    ("owners", "words"),
    [
        ([owner("Workspace", "phi", UID)], None),
        ([], "was not made for this Workspace"),
        ([owner("Deployment", "web", "other")], "belongs to Deployment web"),
        ([owner("Workspace", "phi", "an earlier one")], "left over from an earlier Workspace"),
        ([{**owner("Workspace", "phi", UID), "controller": False}], "was not made for this Workspace"),
    ],
)
def test_taken_name(owners: list[dict[str, Any]], words: str | None, workspace: Callable[..., Workspace]) -> None:
    found = msgspec.convert({"metadata": {"name": "phi", "namespace": "team", "ownerReferences": owners}}, Service)
    observed = Observed(workspace=workspace(), children={ChildId("services", "phi"): found})
    obstacle = taken_name(observed, [WANTED])
    assert (obstacle is None) == (words is None)
    if obstacle is not None:
        assert obstacle.reason == "NameTaken"
        assert str(words) in obstacle.message
