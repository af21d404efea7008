"""A Workspace that reaches its aim on a real kube-apiserver is told to a collector as one trace, once."""

from __future__ import annotations

from typing import Any

import pytest

from kubecore.testing.asserts import eventually

pytestmark = pytest.mark.integration

MANIFEST = """
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: phi}
resource:
  instanceType: Standard_NC6s_v3
  labelSelector: {matchLabels: {apps: phi}}
inference:
  preset: {name: phi-3-mini-4k-instruct}
"""


async def test_one_trace_from_apply_to_ready(
    cluster: Any, run_controller: Any, collector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    await cluster.apply(MANIFEST)
    async with run_controller(traces=True):
        await cluster.serve("phi")
        await eventually(lambda: collector.accepted, timeout=30)
        # It fails and serves again: that is no second way to the aim.
        await cluster.pod_status("phi-0", ready=False)
        await cluster.statefulset_status("phi", ready=0)
        await cluster.becomes("phi", "WorkspaceSucceeded", "False")
        await cluster.pod_status("phi-0", ready=True)
        await cluster.statefulset_status("phi", ready=1)
        await cluster.becomes("phi", "WorkspaceSucceeded", "True")
    spans = collector.spans()
    workspace = await cluster.workspace("phi")
    assert {span.trace_id.hex() for span in spans} == {workspace.metadata.uid.replace("-", "")}
    names = [span.name for span in spans]
    assert names[:5] == ["workspace", "claim", "launch", "register", "initialize"]
    assert {"pod", "container model-server"} <= set(names)
    assert len(names) == len(set(names))
    created = int(workspace.metadata.creation_timestamp.timestamp()) * 10**9
    assert spans[0].start_time_unix_nano == created
    assert all(created <= span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
