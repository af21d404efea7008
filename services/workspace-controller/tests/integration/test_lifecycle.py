"""What happens to a Workspace after it serves: edits, lost nodes, crashes, deletion."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from kaito_api import labels
from kaito_api.meta import Key
from kaito_api.resources import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    MACHINES,
    NAMESPACES,
    NODECLAIMS,
    NODES,
    PODS,
    ROLES,
    SERVICES,
    STATEFULSETS,
    WORKSPACES,
)
from kubecore.testing.asserts import eventually
from workspace_controller.settings import ClaimApi

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
BROUGHT = MANIFEST.replace("  instanceType: Standard_NC6s_v3\n", "")


async def raw(cluster: Any, res: Any, name: str) -> dict[str, Any]:
    """Read an object whole, with the fields that no view has."""
    from kubecore.transport import Request

    path = res.path(cluster.namespace, name)
    body = await cluster.client.transport.request(Request("GET", path, "get", res.plural), timeout=10)
    return msgspec.json.decode(body)


def crashed(exit_code: int, message: str = "") -> dict[str, Any]:
    ended = {"exitCode": exit_code, "reason": "Error", "message": message}
    status = {"name": "model-server", "ready": False, "restartCount": 1, "image": "server", "imageID": ""}
    return {**status, "state": {"terminated": ended}}


async def test_deletion_goes_workload_pods_claims_finalizer(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller():
        await cluster.serve("phi")
        (claim,) = await cluster.claims("phi")
        hold = {"metadata": {"finalizers": [labels.KARPENTER_FINALIZER]}}
        await cluster.client.patch(NODECLAIMS, claim.metadata.key, hold)
        await cluster.client.delete(WORKSPACES, cluster.key("phi"))
        await eventually(lambda: gone(cluster, STATEFULSETS, "phi"))
        condition = await cluster.becomes("phi", "WorkspaceDeleting", "True")
        await eventually(lambda: says(cluster, "phi", "phi-0"))
        assert not (await cluster.client.get(NODECLAIMS, claim.metadata.key)).metadata.deleting
        await cluster.client.delete(PODS, cluster.key("phi-0"), grace_seconds=0)
        condition = await cluster.becomes("phi", "WorkspaceDeleting", "True", "WaitingForClaims")
        assert claim.metadata.name in condition.message
        assert (await cluster.client.get(NODECLAIMS, claim.metadata.key)).metadata.deleting
        assert labels.WORKSPACE_FINALIZER in (await cluster.workspace("phi")).metadata.finalizers
        await cluster.client.patch(NODECLAIMS, claim.metadata.key, {"metadata": {"finalizers": None}})
        await eventually(lambda: gone(cluster, WORKSPACES, "phi"))


async def test_an_edit_rolls_the_whole_pod_template(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller():
        await cluster.serve("phi")
        before = await raw(cluster, STATEFULSETS, "phi")
        with_adapter = (
            MANIFEST + "  adapters: [{source: {name: extra, image: 'registry.local/a:1'}, strength: '0.5'}]\n"
        )
        with_adapter += "  config: tuned\n"
        config = {"metadata": {"name": "tuned", "namespace": cluster.namespace}}
        text = "vllm: {max-model-len: 2048}\n"
        await cluster.client.create(CONFIGMAPS, {**config, "data": {"inference_config.yaml": text}})
        await cluster.apply(with_adapter)

        async def changed() -> dict[str, Any] | None:
            found = await raw(cluster, STATEFULSETS, "phi")
            return found if found["metadata"]["generation"] > before["metadata"]["generation"] else None

        after = await eventually(changed)
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        old, new = (found["spec"]["template"]["spec"]["containers"][0]["command"] for found in (before, after))
        assert "--config" in new
        assert "--config" not in old
        assert after["metadata"]["annotations"][labels.REVISION] == "2"

        async def history() -> bool:
            revisions = await cluster.client.list(CONTROLLERREVISIONS, cluster.namespace)
            return sorted(revision.revision for revision in revisions) == [1, 2]

        await eventually(history)
        found = await cluster.becomes("phi", "InferenceReady", "False")
        assert found.observed_generation == 2

        # The content of the ConfigMap is part of what runs: changing it rolls the pods as well.
        generation = after["metadata"]["generation"]
        patch = {"data": {"inference_config.yaml": "vllm: {max-model-len: 1024}\n"}}
        await cluster.client.patch(CONFIGMAPS, cluster.key("tuned"), patch)

        async def rolled() -> bool:
            return (await raw(cluster, STATEFULSETS, "phi"))["metadata"]["generation"] > generation

        await eventually(rolled)


async def test_a_stranger_s_change_of_the_workload_is_undone(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller():
        await cluster.serve("phi")
        patch = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}
        wanted = (await raw(cluster, STATEFULSETS, "phi"))["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        await cluster.client.patch(STATEFULSETS, cluster.key("phi"), patch)

        async def restored() -> bool:
            found = await raw(cluster, STATEFULSETS, "phi")
            same = found["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == wanted
            return same and found["metadata"]["generation"] >= 3

        await eventually(restored)
        roles = await cluster.client.list(ROLES, cluster.namespace)
        wide = {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}
        await cluster.client.patch(ROLES, roles[0].metadata.key, wide)

        async def narrow() -> bool:
            return (await cluster.client.get(ROLES, roles[0].metadata.key)).rules == roles[0].rules

        await eventually(narrow)


async def test_a_stranger_s_change_while_no_controller_runs_is_undone(
    cluster: Any, run_controller: Any, new_controller_writes: Any
) -> None:
    """And known to be undone: the next controllers leave it alone, what the stranger added beside it included."""
    await cluster.apply(MANIFEST)
    async with run_controller():
        await cluster.serve("phi")
        await cluster.becomes("phi", "WorkspaceSucceeded", "True")
    await new_controller_writes()
    wanted = (await raw(cluster, STATEFULSETS, "phi"))["spec"]["template"]["spec"]

    other = {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}
    await cluster.client.patch(STATEFULSETS, cluster.key("phi"), {"spec": other})
    assert await new_controller_writes()
    assert (await raw(cluster, STATEFULSETS, "phi"))["spec"]["template"]["spec"] == wanted
    assert await new_controller_writes() == 0

    await cluster.client.patch(STATEFULSETS, cluster.key("phi"), {"spec": {"minReadySeconds": 7}})
    for _ in range(2):  # the first foresees a change that does not come
        assert await new_controller_writes()
    assert await new_controller_writes() == 0
    assert (await raw(cluster, STATEFULSETS, "phi"))["spec"]["minReadySeconds"] == 7


async def test_what_is_deleted_comes_back(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller():
        await cluster.serve("phi")
        (role,) = await cluster.client.list(ROLES, cluster.namespace)
        for res, name in ((SERVICES, "phi"), (ROLES, role.metadata.name), (STATEFULSETS, "phi")):
            old = await cluster.find(res, name)
            await cluster.client.delete(res, cluster.key(name))
            await eventually(lambda: renewed(cluster, res, name, old.metadata.uid))  # noqa: B023 - awaited here


async def test_claims_of_a_dead_workspace_are_swept(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller(sweep_seconds=0.2):
        (claim,) = await cluster.claimed("phi")
        foreign = {
            "metadata": {"name": "foreign", "labels": claim.metadata.labels},
            "spec": msgspec.to_builtins(claim.spec),
        }
        await cluster.client.create(NODECLAIMS, foreign)
        dead = {**foreign["metadata"], "name": "dead", "annotations": {labels.WORKSPACE_UID: "dead"}}
        await cluster.client.create(NODECLAIMS, {**foreign, "metadata": dead})
        await eventually(lambda: gone(cluster, NODECLAIMS, "dead"))
        left = {found.metadata.name for found in await cluster.client.list(NODECLAIMS)}
        assert left == {claim.metadata.name, "foreign"}


@pytest.mark.parametrize(
    "differs",
    [
        pytest.param({"serviceName": "from-another-age"}, id="an immutable field differs"),
        pytest.param({"serviceName": "phi-headless", "podManagementPolicy": "Parallel"}, id="KAITO made it"),
    ],
)
async def test_a_statefulset_that_cannot_be_applied_is_replaced_and_its_pods_kept(
    cluster: Any, run_controller: Any, differs: dict[str, str]
) -> None:
    created = await cluster.apply(MANIFEST)
    owner = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "name": "phi", "controller": True}
    metadata = {"name": "phi", "namespace": cluster.namespace}
    metadata |= {"ownerReferences": [{**owner, "uid": created.metadata.uid}]}
    selector = {labels.WORKSPACE: "phi"}
    pod = {"metadata": {"labels": selector}, "spec": {"containers": [{"name": "old", "image": "old"}]}}
    spec = {**differs, "selector": {"matchLabels": selector}, "template": pod}
    old = await cluster.client.create(STATEFULSETS, {"metadata": metadata, "spec": spec})
    async with run_controller():
        (claim,) = await cluster.claimed("phi")
        await cluster.provision(claim)

        async def orphaned() -> bool:
            found = await cluster.client.get(STATEFULSETS, cluster.key("phi"))
            return found.metadata.deleting and "orphan" in found.metadata.finalizers

        await eventually(orphaned)
        await cluster.client.patch(STATEFULSETS, cluster.key("phi"), {"metadata": {"finalizers": None}})

        async def replaced() -> bool:
            found = await cluster.find(STATEFULSETS, "phi")
            return found is not None and found.metadata.uid != old.metadata.uid

        await eventually(replaced)
        fresh = await raw(cluster, STATEFULSETS, "phi")
        assert [c["name"] for c in fresh["spec"]["template"]["spec"]["containers"]] == ["model-server"]


async def test_lost_node_and_its_return(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller():
        node = await cluster.serve("phi")
        await cluster.node_status(node, ready=False)
        condition = await cluster.becomes("phi", "ResourceReady", "False", "NodeNotReady")
        assert condition.message
        await cluster.becomes("phi", "InferenceReady", "False")
        assert (await cluster.workspace("phi")).status.state == "NotReady"
        assert (await cluster.workspace("phi")).status.worker_nodes == []
        await cluster.node_status(node, ready=True)
        await cluster.becomes("phi", "WorkspaceSucceeded", "True")
        assert (await cluster.workspace("phi")).status.worker_nodes == [node]
        await cluster.client.delete(NODES, Key("", node), grace_seconds=0)
        await cluster.becomes("phi", "ResourceReady", "False", "NodeNotReady")


async def test_a_deleted_claim_is_replaced_by_the_next_attempt(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller():
        (first,) = await cluster.claimed("phi")
        hold = {"metadata": {"finalizers": [labels.KARPENTER_FINALIZER]}}
        await cluster.client.patch(NODECLAIMS, first.metadata.key, hold)
        await cluster.client.delete(NODECLAIMS, first.metadata.key)
        both = await cluster.claimed("phi", 2)
        (second,) = [claim for claim in both if not claim.metadata.deleting]
        assert second.metadata.annotations[labels.CLAIM_ATTEMPT] == "1"


@pytest.mark.parametrize(
    ("exit_code", "reason"), [(66, "WeightsMissing"), (71, "OutOfMemory"), (1, "ContainerCrashLoopBackOff")]
)
async def test_a_crash_reaches_the_condition_at_once(
    cluster: Any, run_controller: Any, exit_code: int, reason: str
) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller():
        await cluster.serve("phi")
        await cluster.pod_status("phi-0", ready=False, container=crashed(exit_code))
        await cluster.becomes("phi", "InferenceReady", "False", reason)
        await cluster.becomes("phi", "WorkspaceSucceeded", "False")
        await cluster.pod_status("phi-0", ready=True)
        await cluster.becomes("phi", "WorkspaceSucceeded", "True")


async def test_a_failed_claim_reaches_the_condition_at_once(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller():
        (claim,) = await cluster.claimed("phi")
        failed = {"type": "Launched", "status": "False", "reason": "QuotaExceeded", "message": "no NCv3 cores left"}
        status = {"conditions": [{**failed, "lastTransitionTime": "2999-01-01T00:00:00Z"}]}
        await cluster.client.patch(NODECLAIMS, claim.metadata.key, {"status": status}, subresource="status")
        condition = await cluster.becomes("phi", "NodeClaimReady", "False", "QuotaExceeded")
        assert "no NCv3 cores left" in condition.message
        await cluster.becomes("phi", "ResourceReady", "False", "QuotaExceeded")


async def test_nodes_that_the_user_brings(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(BROUGHT)
    async with run_controller():
        await cluster.becomes("phi", "ResourceReady", "False", "InstanceTypeMissing")
        assert await cluster.find(STATEFULSETS, "phi") is None
        gpu = {labels.GPU_PRODUCT: "NVIDIA-A100-SXM4-80GB", labels.GPU_COUNT: "1", labels.GPU_MEMORY: "81920"}
        capability = {labels.CUDA_COMPUTE_MAJOR: "8", labels.CUDA_COMPUTE_MINOR: "0"}
        await cluster.node("mine", {"apps": "phi", **gpu, **capability})
        statefulset = await cluster.statefulset("phi")
        await cluster.run_pod(statefulset, "mine")
        await cluster.becomes("phi", "WorkspaceSucceeded", "True")
        found = await cluster.workspace("phi")
        assert found.status.worker_nodes == ["mine"]
        assert await cluster.condition("phi", "NodeClaimReady") is None
        assert await cluster.claims("phi") == []

        # A cordon keeps new pods off; the one that serves is left alone, until somebody drains the node.
        await cluster.client.patch(NODES, Key("", "mine"), {"spec": {"unschedulable": True}})
        await cluster.client.patch(PODS, cluster.key("phi-0"), {"metadata": {"finalizers": ["kaito.sh/test"]}})
        await asyncio.sleep(0.5)
        cordoned = await cluster.workspace("phi")
        assert cordoned.status == found.status
        await cluster.client.delete(PODS, cluster.key("phi-0"), grace_seconds=0)
        condition = await cluster.becomes("phi", "NodesReady", "False", "NotEnoughNodes")
        assert "mine is cordoned" in condition.message
        await cluster.client.patch(PODS, cluster.key("phi-0"), {"metadata": {"finalizers": None}})


async def test_machine_api(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller(claim_api=ClaimApi.MACHINE):
        (machine,) = await cluster.claimed("phi", res=MACHINES)
        await cluster.provision(machine, MACHINES)
        await cluster.statefulset("phi")
        await cluster.becomes("phi", "NodeClaimReady", "True", "NodeClaimsReady")
        assert await cluster.claims("phi") == []


async def test_legacy_deployment_is_replaced(cluster: Any, run_controller: Any) -> None:
    from kaito_api.resources import DEPLOYMENTS, EVENTS

    created = await cluster.apply(MANIFEST)
    owner = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "name": "phi", "controller": True}
    selector = {labels.WORKSPACE: "phi"}
    metadata = {"name": "phi", "namespace": cluster.namespace, "labels": selector}
    metadata |= {"ownerReferences": [{**owner, "uid": created.metadata.uid}]}
    pod = {"metadata": {"labels": selector}, "spec": {"containers": [{"name": "old", "image": "old"}]}}
    await cluster.client.create(
        DEPLOYMENTS, {"metadata": metadata, "spec": {"selector": {"matchLabels": selector}, "template": pod}}
    )
    async with run_controller():
        await eventually(lambda: gone(cluster, DEPLOYMENTS, "phi"))

        async def told() -> set[str]:
            found = {event.reason for event in await cluster.client.list(EVENTS, cluster.namespace)}
            return found if {"WorkloadMigration", "NodeClaimCreated"} <= found else set()

        assert await eventually(told)


async def test_same_name_in_two_namespaces(cluster: Any, run_controller: Any, apiserver: Any) -> None:
    other = f"{cluster.namespace}-b"
    await cluster.client.create(NAMESPACES, {"metadata": {"name": other}})
    await cluster.apply(MANIFEST)
    await cluster.apply(MANIFEST, other)
    try:
        async with run_controller():
            (mine,) = await cluster.claimed("phi")
            await cluster.provision(mine)
            await cluster.statefulset("phi")
            found = await cluster.client.get(WORKSPACES, Key(other, "phi"))
            assert "True" not in {condition.status for condition in found.status.conditions}
            assert await cluster.find(STATEFULSETS, "phi", other) is None

            async def both_are_bought() -> bool:
                return len(await cluster.client.list(NODECLAIMS)) == 2

            await eventually(both_are_bought)
    finally:
        await cluster.client.patch(WORKSPACES, Key(other, "phi"), {"metadata": {"finalizers": None}})
        await cluster.client.delete(WORKSPACES, Key(other, "phi"))
        await cluster.client.delete(NAMESPACES, Key("", other))


async def gone(cluster: Any, res: Any, name: str) -> bool:
    return await cluster.find(res, name) is None


async def renewed(cluster: Any, res: Any, name: str, uid: str) -> bool:
    found = await cluster.find(res, name)
    return found is not None and found.metadata.uid != uid


async def says(cluster: Any, name: str, text: str) -> bool:
    condition = await cluster.condition(name, "WorkspaceDeleting")
    return condition is not None and text in condition.message
