"""Pods that wait for the Secret with the API keys: when it is told, and when it is too early."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from kaito_api.core import Pod
from kaito_api.workspace import Workspace
from workspace_controller.status.keys import GRACE, key_wait

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MOUNTED_LATE = {"PodScheduled": "True", "PodReadyToStartContainers": "False"}
PRESET = {"preset": {"name": "phi-3-mini-4k-instruct"}}


def workspace(annotations: dict[str, str], inference: dict[str, Any] | None) -> Workspace:
    metadata = {"name": "phi", "namespace": "team", "annotations": annotations}
    return msgspec.convert({"metadata": metadata, "inference": inference}, Workspace)


def pod(conditions: dict[str, str], since: datetime | None = NOW, name: str = "phi-0", **metadata: Any) -> Pod:
    stated = [{"type": type_, "status": status, "lastTransitionTime": since} for type_, status in conditions.items()]
    content = {"metadata": {"name": name, "namespace": "team", **metadata}, "status": {"conditions": stated}}
    return msgspec.convert(content, Pod)


ASKING = workspace({"kaito.sh/api-key-secret": "keys"}, PRESET)


@pytest.mark.parametrize(
    ("wanted", "found", "waits"),
    [
        (ASKING, pod(MOUNTED_LATE), True),
        (workspace({}, PRESET), pod(MOUNTED_LATE), False),
        (workspace({"kaito.sh/api-key-secret": "keys"}, {"template": {}}), pod(MOUNTED_LATE), False),
        (workspace({"kaito.sh/api-key-secret": "keys"}, None), pod(MOUNTED_LATE), False),
        (ASKING, pod({**MOUNTED_LATE, "PodScheduled": "False"}), False),
        (ASKING, pod({**MOUNTED_LATE, "PodReadyToStartContainers": "True"}), False),
        (ASKING, pod({"PodScheduled": "True"}), False),
        (ASKING, pod(MOUNTED_LATE, None), False),
        (ASKING, pod(MOUNTED_LATE, deletionTimestamp=NOW), False),
    ],
)
def test_a_pod_waits_when_it_is_scheduled_and_nothing_is_mounted(wanted: Workspace, found: Pod, waits: bool) -> None:
    assert (key_wait(wanted, [found]) is not None) == waits


def test_the_oldest_wait_is_told_after_a_grace() -> None:
    pods = [pod(MOUNTED_LATE, name="phi-0"), pod(MOUNTED_LATE, NOW - timedelta(seconds=5), name="phi-1")]
    wait = key_wait(ASKING, pods)
    assert wait is not None
    assert wait.pod == "phi-1"
    assert wait.seconds_left(NOW) == GRACE.total_seconds() - 5
    assert wait.seconds_left(NOW + GRACE) == 0
    assert wait.finding().message == (
        "Pod phi-1 waits for its volumes: does the Secret keys exist, which kaito.sh/api-key-secret names? "
        "kubectl -n team create secret generic keys --from-literal=key-1=..."
    )
