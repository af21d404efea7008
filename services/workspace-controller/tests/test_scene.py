"""Which container of a tuning pod counts, where others stand beside ours."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from kaito_api.core import Job, Pod
from workspace_controller.status.tuning import scene

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DONE = {"terminated": {"exitCode": 0}}
RUNS = {"running": {"startedAt": NOW}}
WAITS = {"waiting": {"reason": "PodInitializing"}}
JOB = msgspec.convert({"metadata": {"name": "phi", "uid": "job"}}, Job)


def pod(inits: dict[str, Any], mains: dict[str, Any]) -> Pod:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "phi", "uid": "job", "controller": True}
    status = {
        "initContainerStatuses": [{"name": name, "state": state} for name, state in inits.items()],
        "containerStatuses": [{"name": name, "state": state} for name, state in mains.items()],
    }
    return msgspec.convert({"metadata": {"name": "phi-1", "ownerReferences": [owner]}, "status": status}, Pod)


PODS = {
    "ours alone": (pod({"weights": DONE, "tuner": RUNS}, {"adapter-packager": WAITS}), "tuner"),
    "a mesh's proxy beside the packager": (
        pod({"weights": DONE, "tuner": DONE}, {"adapter-packager": RUNS, "istio-proxy": RUNS}),
        "adapter-packager",
    ),
    "a secret agent that was put behind the tuner": (
        pod({"weights": DONE, "tuner": RUNS, "vault-agent": RUNS}, {"adapter-packager": WAITS}),
        "tuner",
    ),
    "KAITO's own Job": (pod({}, {"phi": RUNS}), "phi"),
    "nothing began": (pod({"weights": WAITS}, {"adapter-packager": WAITS}), ""),
}


@pytest.mark.parametrize("case", PODS)
def test_the_active_container_is_one_of_ours(case: str) -> None:
    found, active = PODS[case]
    assert scene(JOB, [found]).active == active
