"""A tuning Workspace from its manifest to its end, with the test in the places of provisioner, Job controller and kubelet."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from kaito_api import labels
from kaito_api.core import Job
from kaito_api.report import OutputReport, Report, TuningReport, encode
from kaito_api.resources import CONFIGMAPS, JOBS, NODECLAIMS, PODS, ROLES
from kubecore.testing.asserts import eventually
from workspace_controller.catalog import Catalog
from workspace_controller.tuning.memory import least_bytes

pytestmark = pytest.mark.integration

NAME = "workspace-tuning-phi-3"
EXAMPLE = (Path(__file__).parent / "examples" / "tuning-phi-3-qlora.yaml").read_text()
MANIFEST = EXAMPLE.replace("REGISTRY/IMAGE:", "registry.local/image:").replace("REGISTRY_SECRET", "push")
DIGEST = "sha256:" + "a" * 64


def report(state: str, **fields: Any) -> Report:
    return Report(state=state, at=datetime.now(UTC), **fields)


class Kubelet:
    """The Job controller's and kubelet's part for the pods of one Job."""

    def __init__(self, cluster: Any, job: Job) -> None:
        self.cluster = cluster
        self.job = job
        self.began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    async def pod(self, name: str, node: str) -> None:
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": NAME,
            "uid": self.job.metadata.uid,
            "controller": True,
        }
        metadata = {"name": name, "namespace": self.cluster.namespace, "labels": {labels.WORKSPACE: NAME}}
        spec = {
            "nodeName": node,
            "restartPolicy": "Never",
            "initContainers": [{"name": "tuner", "image": "t"}],
            "containers": [{"name": "adapter-packager", "image": "p"}],
        }
        await self.cluster.client.create(PODS, {"metadata": {**metadata, "ownerReferences": [owner]}, "spec": spec})
        await self.job_status({"active": 1, "ready": 0})

    async def says(self, pod: str, container: str, said: Report) -> None:
        patch = {"metadata": {"annotations": {labels.report_annotation(container): encode(said).decode()}}}
        await self.cluster.client.patch(PODS, self.cluster.key(pod), patch)

    async def container(self, pod: str, container: str, state: dict[str, Any], phase: str = "Running") -> None:
        which = "initContainerStatuses" if container == "tuner" else "containerStatuses"
        base = {"name": container, "ready": False, "restartCount": 0, "image": "i", "imageID": ""}
        status = {"phase": phase, which: [{**base, "state": state}]}
        await self.cluster.client.patch(PODS, self.cluster.key(pod), {"status": status}, subresource="status")

    async def job_status(self, status: dict[str, Any]) -> None:
        body = {"status": {"startTime": self.began, **status}}  # the apiserver lets nobody change it
        await self.cluster.client.patch(JOBS, self.cluster.key(NAME), body, subresource="status")

    async def ends(self, type_: str, message: str = "") -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        before = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}[type_]
        conditions = [
            {"type": each, "status": "True", "message": message, "lastTransitionTime": now, "lastProbeTime": now}
            for each in (before, type_)
        ]
        counts = {"succeeded": 1, "completionTime": now} if type_ == "Complete" else {"failed": 1}
        await self.job_status({"active": 0, "ready": 0, "terminating": 0, **counts, "conditions": conditions})


async def started(cluster: Any) -> tuple[Kubelet, str]:
    """Bring the node and wait for the Job."""
    (claim,) = await cluster.claimed(NAME)
    assert await cluster.find(JOBS, NAME) is None, "the Job waits for its node"
    node = await cluster.provision(claim)
    job = await eventually(lambda: cluster.find(JOBS, NAME), timeout=30)
    assert job is not None
    return Kubelet(cluster, job), node


async def released(cluster: Any) -> None:
    async def check() -> bool:
        return await cluster.claims(NAME) == []

    await eventually(check, timeout=30)


RUNNING = {"running": {"startedAt": "2026-11-21T12:00:00Z"}}


def compared(registry: CollectorRegistry) -> tuple[float | None, float | None]:
    """How often training memory was compared with the plan's, and the sum of the ratios."""
    where = {"quantity": "training_memory", "preset": "phi-3-mini-128k-instruct"}
    count, total = (f"kaito_workspace_plan_error_ratio_{part}" for part in ("count", "sum"))
    return registry.get_sample_value(count, where), registry.get_sample_value(total, where)


async def test_from_the_unchanged_manifest_to_the_adapter(cluster: Any, run_controller: Any, catalog: Catalog) -> None:
    preset = catalog.preset("phi-3-mini-128k-instruct")
    assert preset is not None
    planned = least_bytes(preset, "qlora")
    registry, later = CollectorRegistry(), CollectorRegistry()
    await cluster.apply(MANIFEST)
    async with run_controller(registry=registry):
        kubelet, node = await started(cluster)
        await cluster.becomes(NAME, "JobStarted", "False", "WorkspaceTuningJobStatusPending")
        (role,) = await cluster.client.list(ROLES, cluster.namespace)
        assert [rule.resource_names for rule in role.rules if "secrets" in rule.resources] == [["push"]]
        await kubelet.pod("one", node)
        await kubelet.container("one", "tuner", RUNNING)
        figures = TuningReport(
            step=120,
            total_steps=300,
            loss=0.5,
            eta_seconds=60,
            tokens_per_second=800.0,
            peak_memory_bytes=2 * planned,
        )
        await kubelet.says("one", "tuner", report("Training", tuning=figures))
        found = await cluster.becomes(NAME, "JobStarted", "True", "WorkspaceTuningJobStatusStarted")

        async def told() -> bool:
            status = (await cluster.workspace(NAME)).status
            return (
                status.state == "Running"
                and status.tuning.progress == "40% (120/300)"
                and status.tuning.loss == "0.5000"
            )

        await eventually(told, timeout=30)
        output = OutputReport(image="registry.local/image:0.0.1", digest=DIGEST, size_bytes=9)
        await kubelet.container("one", "adapter-packager", RUNNING)
        await kubelet.says("one", "adapter-packager", report("Done", output=output))
        await kubelet.ends("Complete")
        found = await cluster.becomes(NAME, "WorkspaceSucceeded", "True")
        assert DIGEST in found.message
        await released(cluster)
        await cluster.becomes(NAME, "ResourceReady", "True", "NodesReleased")
        status = (await cluster.workspace(NAME)).status
        assert (status.state, status.worker_nodes) == ("Succeeded", [])
        assert status.tuning.output.image == f"registry.local/image@{DIGEST}"
        assert status.tuning.step == 120
    assert compared(registry) == (1, pytest.approx(2))
    async with run_controller(registry=later):  # another leader finds it finished, and buys nothing
        await cluster.client.delete(JOBS, cluster.key(NAME), propagation="Background")
        await cluster.becomes(NAME, "WorkspaceSucceeded", "True")
        assert await cluster.claims(NAME) == []
    assert compared(later) == (None, None)


async def test_a_failure_is_told_frees_the_node_and_is_tried_again(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller():
        kubelet, node = await started(cluster)
        await kubelet.pod("one", node)
        last = report("Failed", reason="DataInvalid", message="rows.parquet is a web page")
        ended = {"exitCode": 73, "reason": "Error", "message": encode(last, 4096).decode()}
        await kubelet.container("one", "tuner", {"terminated": ended}, phase="Failed")
        await kubelet.ends("Failed", "exit code 73")
        found = await cluster.becomes(NAME, "JobStarted", "False", "DataInvalid")
        assert "a web page" in found.message
        await cluster.becomes(NAME, "WorkspaceSucceeded", "False", "workspaceFailed")
        await released(cluster)
        assert (await cluster.workspace(NAME)).status.state == "Failed"
        await cluster.client.delete(JOBS, cluster.key(NAME), propagation="Background")
        await cluster.claimed(NAME)
        await cluster.becomes(NAME, "JobStarted", "False", "WorkspaceTuningJobStatusPending")


async def test_another_request_replaces_the_job(cluster: Any, run_controller: Any) -> None:
    config = {"metadata": {"name": "tuned", "namespace": cluster.namespace}}
    text = "training_config: {LoraConfig: {r: 8}}\n"
    await cluster.client.create(CONFIGMAPS, {**config, "data": {"training_config.yaml": text}})
    await cluster.apply(MANIFEST.replace("  method: qlora\n", "  method: qlora\n  config: tuned\n"))
    async with run_controller():
        kubelet, _ = await started(cluster)
        first = kubelet.job
        patch = {"data": {"training_config.yaml": text.replace("8", "16")}}
        await cluster.client.patch(CONFIGMAPS, cluster.key("tuned"), patch)

        async def dying() -> bool:
            found = await cluster.find(JOBS, NAME)
            return found is None or found.metadata.deleting or found.metadata.uid != first.metadata.uid

        await eventually(dying, timeout=30)
        # nobody collects garbage here: the foreground deletion is ended by the test
        await cluster.client.patch(JOBS, cluster.key(NAME), {"metadata": {"finalizers": None}})

        async def anew() -> Job | None:
            found = await cluster.find(JOBS, NAME)
            return found if found is not None and found.metadata.uid != first.metadata.uid else None

        second = await eventually(anew, timeout=30)
        assert second is not None
        assert second.metadata.annotations[labels.TUNING_RUN] != first.metadata.annotations[labels.TUNING_RUN]
        (claim,) = await cluster.client.list(NODECLAIMS)
        assert not claim.metadata.deleting, "the node is kept for the new Job"


@pytest.mark.parametrize("tag", ["0.0.1", "0.0.1-ckpt"])
async def test_two_workspaces_do_not_write_one_tag(tag: str, cluster: Any, run_controller: Any) -> None:
    """Neither the other's result nor, under `-ckpt`, its checkpoints; whichever of the two is the older one."""
    manifests = {NAME: MANIFEST, "other": MANIFEST.replace(f"name: {NAME}", "name: other")}
    manifests["other"] = manifests["other"].replace("image:0.0.1", f"image:{tag}")
    for manifest in manifests.values():
        await cluster.apply(manifest)
    both = [(await cluster.workspace(name)).metadata for name in (NAME, "other")]
    # Creation is told in whole seconds: of two that came in the same one, the UID decides.
    older, younger = (meta.name for meta in sorted(both, key=lambda meta: (meta.creation_timestamp, meta.uid)))
    async with run_controller():
        await cluster.claimed(older)
        found = await cluster.becomes(younger, "WorkspaceSucceeded", "False", "OutputConflict")
        assert older in found.message
        assert await cluster.claims(younger) == []
        await cluster.apply(manifests[older].replace("image:0.0.1", "image:0.0.2"))
        await cluster.claimed(younger)
        await cluster.becomes(younger, "WorkspaceSucceeded", "False", "workspacePending")
