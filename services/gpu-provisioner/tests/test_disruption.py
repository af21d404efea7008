"""Ill nodes, drains that are refused, replicas that take turns, kinds that are missing, and claims from earlier releases."""

import asyncio
import json
import uuid
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import yaml
from provisioner_stage import Stage, stage

from gpu_provisioner.claims.view import ClaimKind
from gpu_provisioner.wiring import served_kinds
from kaito_api.conditions import is_true
from kaito_api.meta import Key
from kaito_api.resources import MACHINES, NODECLAIMS, NODES, PODS, VOLUMEATTACHMENTS
from kaito_local.arm.cloud import Timings
from kaito_local.errors import CommandError
from kaito_local.pytest_plugin import ApiServer
from kubecore.errors import ConfigError, Invalid
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import fast_clock

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CRDS = Path(__file__).parents[3] / "crds"
VERSIONS = {"nodeclaims": "v1", "machines": "v1alpha5"}
ANY_SIZE = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]}
GPU = {"requests": {"nvidia.com/gpu": "1"}}
BUDGET = """
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: strict, namespace: NAMESPACE}
spec: {minAvailable: 1, selector: {matchLabels: {app: busy}}}
"""


@pytest.fixture
def name() -> str:
    return f"d{uuid.uuid4().hex[:9]}"


async def node_of(s: Stage, name: str) -> str:
    return (await s.get(name)).status.node_name


async def busy_pod(s: Stage, apiserver: ApiServer, namespace: str, node: str) -> Key:
    """A running pod that a PodDisruptionBudget protects. No controller runs here, so the budget allows what a test writes."""
    body = {
        "metadata": {"name": "busy", "namespace": namespace, "labels": {"app": "busy"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x"}], "terminationGracePeriodSeconds": 0},
    }
    await s.client.create(PODS, body)
    running = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await s.client.patch(PODS, Key(namespace, "busy"), {"status": running}, subresource="status")
    await apiserver.kubectl("apply", "-f", "-", stdin=BUDGET.replace("NAMESPACE", namespace))
    await allow(apiserver, namespace, 0)
    return Key(namespace, "busy")


async def allow(apiserver: ApiServer, namespace: str, disruptions: int) -> None:
    status = {"observedGeneration": 1, "disruptionsAllowed": disruptions, "currentHealthy": 1, "desiredHealthy": 1}
    patch = json.dumps({"status": {**status, "expectedPods": 1}})
    where = ("-n", namespace, "pdb", "strict", "--subresource=status", "--type=merge")
    await apiserver.kubectl("patch", *where, "-p", patch)


async def test_a_budget_holds_the_drain_until_it_allows(
    apiserver: ApiServer, tmp_path: Path, name: str, namespace: str
) -> None:
    async with fast_clock(10) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        await s.claim(name)
        await s.ready(name)
        await busy_pod(s, apiserver, namespace, await node_of(s, name))
        node = await s.client.get(NODES, Key("", await node_of(s, name)))
        await s.client.delete(NODECLAIMS, Key("", name))
        await eventually(lambda: s.event(node.metadata.name, "FailedDraining"), timeout=90)
        assert s.calls("delete") == []
        await allow(apiserver, namespace, 1)
        await eventually(lambda: s.is_gone(name), timeout=90)
        assert s.arm.wire.cloud.pools == {}


async def test_the_termination_grace_period_ends_a_drain_that_a_budget_would_hold_for_ever(
    apiserver: ApiServer, tmp_path: Path, name: str, namespace: str
) -> None:
    async with fast_clock(10) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        await s.claim(name, terminationGracePeriod="60s")
        await s.ready(name)
        pod = await busy_pod(s, apiserver, namespace, await node_of(s, name))
        clock.resync()  # the 60 s begin with the apiserver's time stamp
        await s.client.delete(NODECLAIMS, Key("", name))
        deleted = (await s.get(name)).metadata.deletion_timestamp
        assert deleted is not None
        await eventually(lambda: s.is_gone(name), timeout=90)
        assert clock.now() >= deleted + timedelta(seconds=60)
        assert (await s.client.get(PODS, pod)).metadata.deleting, "no kubelet here: told to go, and not waited for"


@pytest.mark.parametrize("daemon", [False, True])
async def test_volumes_are_waited_for_but_not_for_ever_beside_pods_that_stay(
    apiserver: ApiServer, tmp_path: Path, name: str, namespace: str, daemon: bool
) -> None:
    """A daemon that tolerates the drain keeps its volume: the machine is not paid for because of it."""
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        await s.claim(name)
        await s.ready(name)
        node = await node_of(s, name)
        if daemon:
            spec = {
                "nodeName": node,
                "containers": [{"name": "c", "image": "x"}],
                "tolerations": [{"operator": "Exists"}],
            }
            await s.client.create(PODS, {"metadata": {"name": "daemon", "namespace": namespace}, "spec": spec})
        source = {"persistentVolumeName": "pv-1"}
        attached = {"attacher": "disk.csi.azure.com", "nodeName": node, "source": source}
        await s.client.create(VOLUMEATTACHMENTS, {"metadata": {"name": name}, "spec": attached})
        try:
            began = clock.monotonic()
            await s.client.delete(NODECLAIMS, Key("", name))
            await eventually(lambda: s.reason(name, "VolumesDetached", "AwaitingVolumeDetachment"), timeout=90)
            if not daemon:
                await eventually(lambda: clock.monotonic() - began > 600, timeout=90)
                assert s.calls("delete") == []
                await s.client.delete(VOLUMEATTACHMENTS, Key("", name))
            await eventually(lambda: s.is_gone(name), timeout=90)
            assert clock.monotonic() - began >= 360
        finally:
            await s.client.delete(VOLUMEATTACHMENTS, Key("", name))


@pytest.mark.parametrize("fault", ["not ready", "gpu lost"])
async def test_an_ill_node_is_replaced_after_ten_minutes(
    apiserver: ApiServer, tmp_path: Path, name: str, fault: str
) -> None:
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner() as service:
        await s.claim(name, resources=GPU)
        await s.ready(name)
        began = clock.monotonic()
        if fault == "not ready":
            await s.nodes.set_ready(await node_of(s, name), ready=False)
        else:
            await s.nodes.set_ready(await node_of(s, name), ready=True, gpus=0)
        await eventually(lambda: s.is_gone(name), timeout=90)
        assert clock.monotonic() - began >= 600
        assert s.arm.wire.cloud.pools == {}
        assert service.metrics.replaced.labels("unhealthy")._value.get() == 1
        await s.said(name, "NodeUnhealthy", "min; the claim is deleted")


async def test_a_node_that_recovers_in_time_is_kept(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner() as service:
        await s.claim(name)
        await s.ready(name)
        node = await node_of(s, name)
        for _ in range(2):  # twice 400 s ill, but not 600 s in one go
            began = clock.monotonic()
            await s.nodes.set_ready(node, ready=False)
            await eventually(lambda: service.metrics.unhealthy._value.get() == 1, timeout=90)
            await eventually(lambda since=began: clock.monotonic() - since > 400, timeout=90)
            clock.factor = 10  # the recovery has to be seen within the 200 s that are left
            await s.nodes.set_ready(node, ready=True)
            await eventually(lambda: service.metrics.unhealthy._value.get() == 0, timeout=90)
            clock.factor = 60
        assert not (await s.get(name)).metadata.deleting


async def test_many_ill_nodes_at_once_are_not_replaced(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    names = [f"{name}{n}" for n in range(4)]
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        for each in names:
            await s.claim(each)
        await s.ready(*names)
        began = clock.monotonic()
        for each in names[:3]:
            await s.nodes.set_ready(await node_of(s, each), ready=False)
        await eventually(lambda: s.event(names[0], "NodeRepairBlocked"), timeout=90)
        await eventually(lambda: clock.monotonic() - began > 900, timeout=90)
        assert [(await s.get(each)).metadata.deleting for each in names] == [False] * 4


async def test_two_replicas_take_turns_and_buy_nothing_twice(
    apiserver: ApiServer, tmp_path: Path, name: str, namespace: str
) -> None:
    timings = Timings(node=0.5, create=1.0, delete=0.5)
    async with stage(apiserver, tmp_path, timings=timings, leader_elect=True, namespace=namespace) as s:
        async with s.provisioner() as second, asyncio.timeout(200), s.provisioner() as first:
            await eventually(lambda: first.manager.is_leader or second.manager.is_leader, timeout=90)
            assert not (first.manager.is_leader and second.manager.is_leader)
            await s.claim(name)
            await eventually(lambda: s.calls("put"), timeout=90)
            leader = first if first.manager.is_leader else second
            leader.manager.stop()  # in the middle of the create
            other = second if leader is first else first
            await eventually(lambda: other.manager.is_leader, timeout=90)
            await s.ready(name)
            assert [c.status for c in s.calls("put")] == [201]
            await s.client.delete(NODECLAIMS, Key("", name))
            await eventually(lambda: s.is_gone(name), timeout=90)
        assert s.arm.wire.cloud.pools == {}


async def test_two_replicas_without_a_lease_still_buy_nothing_twice(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    """As when a lease changes hands while its old holder is frozen: the versions and eTags of what they change decide."""
    own, shared = [f"{name}a", f"{name}b"], [f"{name}{n}" for n in range(3)]
    timings = Timings(node=0.2, create=0.4, delete=0.2)
    async with stage(apiserver, tmp_path, timings=timings) as s, s.provisioner(), s.provisioner():
        for each in own:
            await s.claim(each)
        for each in shared:
            await s.claim(each, workspace="uid-1")
        await s.ready(*own, *shared)
        machines = {m.provider_id for pool in s.arm.wire.cloud.pools.values() for m in pool.machines.values()}
        assert machines == {(await s.get(each)).status.provider_id for each in (*own, *shared)}
        assert len(machines) == 5
        assert len(s.arm.wire.cloud.pools) == 3
        for each in (own[0], shared[1]):
            await s.client.delete(NODECLAIMS, Key("", each))
            await eventually(lambda each=each: s.is_gone(each), timeout=90)
        await s.ready(own[1], shared[0], shared[2])
        left = {(await s.get(each)).status.provider_id for each in (own[1], shared[0], shared[2])}
        assert left == {m.provider_id for pool in s.arm.wire.cloud.pools.values() for m in pool.machines.values()}


async def test_missing_kinds(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with stage(apiserver, tmp_path) as s:
        try:
            await apiserver.delete_crds("machines.karpenter.sh")
            await eventually(lambda: kinds_are(s, {ClaimKind.NODE_CLAIM}), timeout=90)
            async with s.provisioner({ClaimKind.NODE_CLAIM}):
                await s.claim(name)
                await s.ready(name)
                await s.client.delete(NODECLAIMS, Key("", name))
                await eventually(lambda: s.is_gone(name), timeout=90)
                await restore(apiserver, "machines")
                marks = {"name": name, "labels": {"kaito.sh/workspace": "phi"}}
                await s.client.create(MACHINES, {"metadata": marks, "spec": {"requirements": [ANY_SIZE]}})
                await eventually(lambda: machine_is_ready(s, name), timeout=90)
                await s.client.delete(MACHINES, Key("", name))
                await eventually(lambda: machines_are_gone(s), timeout=90)
            await apiserver.delete_crds("nodeclaims.karpenter.sh", "machines.karpenter.sh")
            await eventually(lambda: kinds_are(s, set()), timeout=90)
            with pytest.raises(ConfigError, match="apply crds/ first"):
                await served_kinds(s.client)
        finally:
            await restore(apiserver, "machines", "nodeclaims")


async def machine_is_ready(s: Stage, name: str) -> bool:
    return is_true((await s.client.get(MACHINES, Key("", name))).status.conditions, "Ready")


async def machines_are_gone(s: Stage) -> bool:
    return not await s.client.list(MACHINES)


async def kinds_are(s: Stage, expected: set[ClaimKind]) -> bool:
    try:
        return await served_kinds(s.client) == expected
    except ConfigError:
        return expected == set()


async def restore(apiserver: ApiServer, *plurals: str) -> None:
    for plural in plurals:
        file = CRDS / f"karpenter.sh_{plural}.yaml"
        await apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", file)
        await eventually(lambda: served(apiserver, plural), timeout=90)  # noqa: B023 - awaited here


async def served(apiserver: ApiServer, plural: str) -> bool:
    """Whether the apiserver answers for this kind: it does so a moment after the CRD says Established."""
    try:
        await apiserver.kubectl("get", "--raw", f"/apis/karpenter.sh/{VERSIONS[plural]}/{plural}?limit=1")
    except CommandError:
        return False
    return True


async def refuses(s: Stage, reference: dict[str, str]) -> bool:
    """Whether the strict schema is in force: no condition tells."""
    spec = {"nodeClassRef": reference, "requirements": [ANY_SIZE]}
    try:
        await s.client.apply(NODECLAIMS, {"metadata": {"name": "probe"}, "spec": spec}, manager="test", dry_run=True)
    except Invalid:
        return True
    return False


@pytest.mark.parametrize("deleting", [False, True])
async def test_a_claim_that_todays_schema_refuses_still_gets_its_end(
    apiserver: ApiServer, tmp_path: Path, name: str, deleting: bool
) -> None:
    """Stored without nodeClassRef.group, finalizer and all, by a release whose schema allowed it."""
    async with stage(apiserver, tmp_path) as s:
        try:
            loose = yaml.safe_load((CRDS / "karpenter.sh_nodeclaims.yaml").read_text())
            for version in loose["spec"]["versions"]:
                version["schema"]["openAPIV3Schema"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
            await apiserver.kubectl(*apply, stdin=yaml.safe_dump(loose))

            async def stored() -> bool:
                try:
                    await s.claim(name, nodeClassRef={"kind": "KaitoNodeClass", "name": "default"})
                except Invalid:  # the schema is exchanged in the background
                    return False
                return True

            await eventually(stored, timeout=90)
            if deleting:
                finalizers = {"metadata": {"finalizers": ["karpenter.sh/termination"]}}
                await s.client.patch(NODECLAIMS, Key("", name), finalizers)
                await s.client.delete(NODECLAIMS, Key("", name))
        finally:
            await restore(apiserver, "nodeclaims")
        await eventually(lambda: refuses(s, {"kind": "KaitoNodeClass", "name": "default"}), timeout=90)
        async with s.provisioner():
            if not deleting:
                await eventually(lambda: s.calls("put"), timeout=90)
                await s.client.delete(NODECLAIMS, Key("", name))
            await eventually(lambda: s.is_gone(name), timeout=90)
        await eventually(lambda: not s.arm.wire.cloud.pools, timeout=90)


async def test_a_claim_of_kaitos_provisioner_is_taken_over_with_its_pool(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    """Its pool has the claim's name and KAITO's labels but no tag, and the claim says nothing about its pool."""
    async with stage(apiserver, tmp_path) as s:
        marks = {"kaito.sh/workspace": "phi", "karpenter.sh/nodepool": "kaito"}
        s.arm.wire.cloud.put(name, {"count": 1, "vmSize": "Standard_NC6s_v3", "nodeLabels": marks}, None)
        await eventually(lambda: s.pool().machines and s.pool().state == "Succeeded", timeout=90)
        (machine,) = s.pool().machines.values()
        await s.claim(name, workspace="uid-1")
        await s.client.patch(NODECLAIMS, Key("", name), {"metadata": {"finalizers": ["karpenter.sh/termination"]}})
        status = {"providerID": machine.provider_id, "nodeName": machine.node_name}
        await s.client.patch(NODECLAIMS, Key("", name), {"status": status}, subresource="status")
        async with s.provisioner():
            await s.ready(name)
            assert s.calls("put") == []
            await s.client.delete(NODECLAIMS, Key("", name))
            await eventually(lambda: s.is_gone(name), timeout=90)
            assert s.arm.wire.cloud.pools == {}


async def test_a_claim_that_never_launched_goes_at_once(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    """The bucket is empty, so no PUT was sent; nothing is to be waited for."""
    async with stage(apiserver, tmp_path, put_burst=0.0, put_per_minute=0.001) as s, s.provisioner():
        await s.claim(name)

        async def chosen() -> bool:
            return "kaito.sh/agent-pool" in (await s.get(name)).metadata.annotations

        await eventually(chosen, timeout=90)
        await s.client.delete(NODECLAIMS, Key("", name))
        await eventually(lambda: s.is_gone(name), timeout=90)
        assert s.calls("put") == s.calls("delete") == []


def test_a_claim_without_a_node_class_can_be_read() -> None:
    claim = msgspec.json.decode(b'{"metadata": {"name": "a"}, "spec": {}}', type=NODECLAIMS.type)
    assert claim.spec.node_class_ref.group == ""
