"""Registration, initialization, drain and health of a claim's node."""

from datetime import timedelta

import msgspec
import pytest
from provisioner_builders import NOW, PROVIDER, machine_claim, node, node_claim

from gpu_provisioner.claims.plan import plan_claim, status_patch
from gpu_provisioner.claims.view import ClaimView
from gpu_provisioner.nodes.drain import cordon, deadline, drain_step
from gpu_provisioner.nodes.health import GPU_SEEN_ANNOTATION, Illness, illness, to_repair
from gpu_provisioner.nodes.initialization import initialization_gap
from gpu_provisioner.nodes.registration import NodePatch, registration_patch
from gpu_provisioner.observe import same_health
from gpu_provisioner.pools.plan import ClaimOutcome, Outcome
from kaito_api.conditions import ClaimReason
from kaito_api.core.node import Node, Taint
from kaito_api.core.pod import Pod
from kaito_api.meta import OwnerReference

STARTUP = Taint(key="cni", effect="NoSchedule")


def test_registration_brings_marks_taints_and_the_finalizer_once() -> None:
    claim = node_claim(startup_taints=[STARTUP])
    fresh = node(taints=[{"key": "karpenter.sh/unregistered", "effect": "NoExecute"}])
    patch = registration_patch(claim, fresh)
    assert patch.labels["karpenter.sh/registered"] == "true"
    assert patch.labels["kaito.sh/workspace"] == "phi"
    assert [t.key for t in patch.taints or []] == ["sku", "cni"]
    assert patch.finalizers == ["karpenter.sh/termination"]
    assert "kaito.sh/workspace-uid" not in patch.annotations
    assert patch.owners == [OwnerReference(api_version="karpenter.sh/v1", kind="NodeClaim", name="ws1", uid="uid-ws1")]
    done = msgspec.convert(
        {
            **msgspec.to_builtins(fresh),
            "metadata": {
                **msgspec.to_builtins(fresh.metadata),
                "labels": {**fresh.metadata.labels, **patch.labels},
                "finalizers": patch.finalizers,
                "ownerReferences": msgspec.to_builtins(patch.owners),
            },
            "spec": {"providerID": PROVIDER, "taints": []},
        },
        type(fresh),
    )
    assert patch.body(fresh)["metadata"]["resourceVersion"] == fresh.metadata.resource_version, "lists go whole"
    mark = NodePatch(labels={"karpenter.sh/initialized": "true"}).body(done)
    assert mark == {"metadata": {"uid": done.metadata.uid, "labels": {"karpenter.sh/initialized": "true"}}}
    again = registration_patch(claim, done)
    assert again.empty, "a taint that somebody removed after registration stays removed"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (node(ready=False), ClaimReason.NODE_NOT_READY),
        (node(taints=[{"key": "cni", "effect": "NoSchedule"}]), ClaimReason.STARTUP_TAINTS_EXIST),
        (
            node(taints=[{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]),
            ClaimReason.KNOWN_EPHEMERAL_TAINTS_EXIST,
        ),
        (node(gpus=0), ClaimReason.RESOURCE_NOT_REGISTERED),
        (node(), None),
    ],
)
def test_initialization_names_the_first_thing_that_is_missing(given, reason) -> None:
    gap = initialization_gap(node_claim(startup_taints=[STARTUP]), given)
    assert (gap.reason if gap else None) == reason


def conditions_of(plan) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in plan.status.conditions}


def _registered(claim: ClaimView) -> dict[str, object]:
    """The metadata of the claim's node after its registration."""
    patch = registration_patch(claim, node())
    return {
        "labels": {**node().metadata.labels, **patch.labels},
        "finalizers": patch.finalizers,
        "owner_references": patch.owners,
    }


def test_the_conditions_follow_the_machine() -> None:
    claim = node_claim()
    waiting = plan_claim(claim, ClaimOutcome(uid=claim.uid, outcome=Outcome.WAITING), (), None, NOW)
    assert conditions_of(waiting) == {
        "Launched": ("Unknown", "AwaitingReconciliation"),
        "Registered": ("Unknown", "AwaitingReconciliation"),
        "Initialized": ("Unknown", "AwaitingReconciliation"),
        "Ready": ("Unknown", "ReconcilingDependents"),
    }
    bound = ClaimOutcome(uid=claim.uid, outcome=Outcome.BOUND, provider_id=PROVIDER)
    launched = plan_claim(claim, bound, (), None, NOW)
    assert conditions_of(launched)["Launched"] == ("True", "Launched")
    assert conditions_of(launched)["Registered"] == ("Unknown", "NodeNotFound")
    unready = plan_claim(claim, bound, (node(ready=False),), None, NOW)
    assert conditions_of(unready)["Registered"] == ("True", "Registered")
    assert conditions_of(unready)["Initialized"] == ("Unknown", "NodeNotReady")
    done = plan_claim(claim, bound, (node(),), None, NOW)
    assert conditions_of(done)["Ready"] == ("True", "Ready")
    assert done.node.labels["karpenter.sh/initialized"] == "true"
    known = msgspec.structs.replace(node(), metadata=msgspec.structs.replace(node().metadata, **_registered(claim)))
    later = plan_claim(claim, bound, (known,), None, NOW)
    assert conditions_of(later)["Ready"] == ("True", "Ready")
    assert later.node.empty, "nothing stands before the status of a claim whose node is registered"
    assert later.node_later.labels == {"karpenter.sh/initialized": "true"}
    assert (done.status.provider_id, done.status.node_name, done.status.image_id) == (
        PROVIDER,
        "aks-p-1-vmss000000",
        "img-1",
    )
    assert done.status.allocatable["nvidia.com/gpu"] == "1"


def test_startup_taints_hold_a_node_that_is_ready_at_first_sight() -> None:
    claim = node_claim(startup_taints=[STARTUP])
    bound = ClaimOutcome(uid=claim.uid, outcome=Outcome.BOUND, provider_id=PROVIDER)
    plan = plan_claim(claim, bound, (node(),), None, NOW)
    assert STARTUP in (plan.node.taints or [])
    assert conditions_of(plan)["Registered"] == ("True", "Registered")
    assert conditions_of(plan)["Initialized"] == ("Unknown", "StartupTaintsExist")
    assert "karpenter.sh/initialized" not in plan.node.labels


def test_two_nodes_with_one_provider_id_are_a_failure() -> None:
    claim = node_claim(provider_id=PROVIDER)
    twin = msgspec.structs.replace(node(), metadata=msgspec.structs.replace(node().metadata, name="twin"))
    plan = plan_claim(claim, ClaimOutcome(uid=claim.uid, outcome=Outcome.BOUND), (node(), twin), None, NOW)
    assert conditions_of(plan)["Registered"] == ("False", "MultipleNodesFound")
    assert conditions_of(plan)["Ready"] == ("False", "UnhealthyDependents")


def test_a_machine_says_false_where_a_node_claim_says_unknown() -> None:
    claim = machine_claim()
    plan = plan_claim(claim, ClaimOutcome(uid=claim.uid, outcome=Outcome.WAITING), (), None, NOW)
    assert conditions_of(plan)["MachineLaunched"] == ("False", "AwaitingReconciliation")
    assert all(c.observed_generation == 0 for c in plan.status.conditions)


def test_a_status_that_stands_is_not_written_again() -> None:
    claim = node_claim()
    bound = ClaimOutcome(uid=claim.uid, outcome=Outcome.BOUND, provider_id=PROVIDER)
    plan = plan_claim(claim, bound, (node(),), None, NOW)
    assert status_patch(claim, plan.status) is not None
    stored = msgspec.structs.replace(claim, **{f: getattr(plan.status, f) for f in plan.status.__struct_fields__})
    again = plan_claim(stored, bound, (node(),), None, NOW + timedelta(minutes=5))
    assert status_patch(stored, again.status) is None


def pod(name: str, *, owner: str = "", priority: str = "", grace: int = 30, **extra: object) -> Pod:
    meta: dict[str, object] = {"name": name, "namespace": "ns", "uid": name}
    if owner:
        meta["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": owner, "name": "o", "uid": "u", "controller": True}
        ]
    meta |= {k: v for k, v in extra.items() if k in ("annotations", "deletionTimestamp", "deletionGracePeriodSeconds")}
    spec = {"nodeName": "n", "priorityClassName": priority, "terminationGracePeriodSeconds": grace}
    spec |= {k: v for k, v in extra.items() if k == "tolerations"}
    return msgspec.convert({"metadata": meta, "spec": spec, "status": {"phase": extra.get("phase", "Running")}}, Pod)


def names(step) -> list[str]:
    return [e.pod.metadata.name for e in step.evict]


def test_pods_leave_in_four_waves() -> None:
    pods = [
        pod("critical-daemon", owner="DaemonSet", priority="system-node-critical"),
        pod("critical", priority="system-cluster-critical"),
        pod("daemon", owner="DaemonSet"),
        pod("plain"),
    ]
    order = []
    while pods:
        step = drain_step(pods, NOW, None)
        assert len(step.waiting) == len(pods)
        (leaving,) = names(step)
        order.append(leaving)
        pods = [p for p in pods if p.metadata.name != leaving]
    assert order == ["plain", "daemon", "critical", "critical-daemon"]
    assert drain_step([], NOW, None).done


@pytest.mark.parametrize(
    "staying",
    [
        pod("static", annotations={"kubernetes.io/config.mirror": "x"}),
        pod("done", phase="Succeeded"),
        pod("tolerant", tolerations=[{"key": "karpenter.sh/disrupted", "operator": "Exists"}]),
        pod("tolerates-all", tolerations=[{"operator": "Exists"}]),
    ],
)
def test_these_do_not_hold_the_drain(staying: Pod) -> None:
    assert drain_step([staying], NOW, None).done


def test_the_deadline_forces_pods_out_past_their_budget_with_the_grace_that_is_left() -> None:
    limit = NOW + timedelta(seconds=20)
    step = drain_step([pod("slow", grace=60), pod("quick", grace=5)], NOW, limit)
    assert {(e.pod.metadata.name, e.grace) for e in step.evict} == {("slow", 20), ("quick", None)}
    late = drain_step([pod("slow", grace=60)], limit + timedelta(seconds=1), limit)
    assert [e.grace for e in late.evict] == [1]


def test_a_pod_that_does_not_go_is_not_waited_for_for_ever() -> None:
    """Its kubelet is dead. deletionTimestamp is the moment of the request plus the grace that was given."""
    told = pod("stuck", deletionTimestamp="2026-11-21T11:59:30Z", deletionGracePeriodSeconds=30)
    assert not drain_step([told], NOW, None).done
    assert drain_step([told], NOW + timedelta(seconds=31), None).done
    assert drain_step([told], NOW, NOW - timedelta(seconds=1)).done, "past the deadline not even a minute"
    assert not drain_step([pod("never told")], NOW, NOW - timedelta(seconds=1)).done


def test_the_deadline_comes_from_the_annotation_or_the_grace_period() -> None:
    assert deadline(NOW, None, "1h30m") == NOW + timedelta(minutes=90)
    assert deadline(NOW, NOW.isoformat(), "1h") == NOW
    assert deadline(NOW, None, None) is None


def test_a_node_is_cordoned_once() -> None:
    taints = cordon(node())
    assert taints is not None
    assert cordon(msgspec.structs.replace(node(), spec=msgspec.structs.replace(node().spec, taints=taints))) is None


def seen(found: Node) -> Node:
    """The node with the mark that it has had a GPU."""
    marked = msgspec.structs.replace(found.metadata, annotations={GPU_SEEN_ANNOTATION: "true"})
    return msgspec.structs.replace(found, metadata=marked)


def test_a_node_that_has_had_a_gpu_is_marked_once() -> None:
    claim = node_claim()
    bound = ClaimOutcome(uid=claim.uid, outcome=Outcome.BOUND, provider_id=PROVIDER)
    mark = {GPU_SEEN_ANNOTATION: "true"}
    assert plan_claim(claim, bound, (node(),), None, NOW).node.annotations == mark
    known = msgspec.structs.replace(node(), metadata=msgspec.structs.replace(node().metadata, **_registered(claim)))
    assert plan_claim(claim, bound, (known,), None, NOW).node_later.annotations == mark
    assert plan_claim(claim, bound, (seen(known),), None, NOW).node_later.annotations == {}
    assert plan_claim(claim, bound, (node(gpus=0),), None, NOW).node.annotations == {}
    ready = plan_claim(claim, bound, (node(),), None, NOW).status
    served = node_claim(provider_id=PROVIDER, allocatable=ready.allocatable, conditions=ready.conditions)
    lost = plan_claim(served, bound, (msgspec.structs.replace(known, status=node(gpus=0).status),), None, NOW)
    assert lost.node.annotations == mark, "lost before the mark was written: at once, before the status forgets it"
    storage = node_claim(requests={"storage": "100G"})
    assert plan_claim(storage, bound, (node(),), None, NOW).node.annotations == {}, "the claim is not about GPUs"


@pytest.mark.parametrize(
    ("marks", "size", "offered", "holds"),
    [
        ({"accelerator": "nvidia"}, "gpu", {}, True),
        ({"accelerator": "nvidia"}, "gpu", {"nvidia.com/gpu": "0"}, True),
        ({"accelerator": "nvidia"}, "gpu", {"nvidia.com/gpu": "2"}, False),
        ({"accelerator": "nvidia"}, "gpu", {"nvidia.com/mig-1g.10gb": "7"}, False),
        ({"accelerator": "nvidia"}, "gpu", {"nvidia.com/gpu.shared": "4"}, False),
        ({"accelerator": "nvidia"}, "cpu", {}, False),
        ({"accelerator": "other"}, "gpu", {}, False),
        ({}, "gpu", {}, False),
    ],
)
def test_a_claim_for_nvidia_waits_for_the_device_plugin(
    marks: dict[str, str], size: str, offered: dict[str, str], holds: bool
) -> None:
    """It requests storage alone, as the workspace controller's claims do."""
    claim = node_claim(labels=marks, requests={"storage": "100G"})
    found = node(gpus=0, **{"kaito.sh/machine-type": size})
    found = msgspec.structs.replace(found, status=msgspec.structs.replace(found.status, allocatable=offered))
    gap = initialization_gap(claim, found)
    assert (gap is not None) is holds
    if gap is not None:
        assert gap.reason == ClaimReason.RESOURCE_NOT_REGISTERED
        assert "NVIDIA device plugin" in gap.message


def test_illness_and_the_brake() -> None:
    assert illness(node(ready=False)) == "node aks-p-1-vmss000000 is not Ready"
    assert illness(node()) == ""
    initialized = node(gpus=0, **{"karpenter.sh/initialized": "true"})
    assert illness(initialized) == "", "it never had one: another machine would lack the device plugin, too"
    lost = seen(initialized)
    assert illness(lost) == "node aks-p-1-vmss000000 has lost its GPU"
    assert illness(seen(node())) == ""
    assert not same_health(initialized, lost), "the mark that comes later is what makes it ill"
    assert same_health(lost, lost)
    old, fresh = Illness("a", "x", 0.0), Illness("b", "x", 60.0)
    assert to_repair([old, fresh], total=10, now=600.0) == (old,)
    many = [Illness(str(n), "x", 0.0) for n in range(3)]
    assert to_repair(many, total=10, now=900.0) == (), "30 % at once is an outage, not three broken nodes"
    assert len(to_repair(many, total=100, now=900.0)) == 3
