"""Claims wanted and surplus: a retry never buys a second machine, a lost node is replaced, nothing live is deleted early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito_api import labels
from kaito_api.conditions import Reason
from kaito_api.core import Node
from kaito_api.machine import Machine
from kaito_api.nodeclaim import NodeClaim
from kaito_api.workspace import Workspace
from workspace_controller.catalog import Catalog
from workspace_controller.claim_slots import plan_slots
from workspace_controller.claims import Claim
from workspace_controller.naming import claim_name
from workspace_controller.nodes import NodePlan, plan_nodes
from workspace_controller.settings import ClaimApi, Settings
from workspace_controller.validation import validate

MakeWorkspace = Callable[..., Workspace]
MakeNode = Callable[..., Node]
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
UID = "5f0e6b9a-0000-4000-8000-000000000001"
OWNED = {labels.WORKSPACE: "phi", labels.WORKSPACE_NAMESPACE: "team", "apps": "phi"}
TWO_A10 = "{resource: {instanceType: Standard_NV36ads_A10_v5}, inference: {preset: {name: phi-4}}}"


def claim(
    slot: int,
    attempt: int = 0,
    *,
    uid: str = UID,
    deleting: bool = False,
    ready: bool = False,
    failed: tuple[str, datetime] | None = None,
    node: str = "",
    machine: bool = False,
) -> Claim:
    conditions = [{"type": "Ready", "status": "True"}] if ready else []
    if failed is not None:
        launched = "MachineLaunched" if machine else "Launched"
        conditions.append(
            {"type": launched, "status": "False", "reason": failed[0], "lastTransitionTime": failed[1].isoformat()}
        )
    content: dict[str, Any] = {
        "metadata": {
            "name": claim_name(uid, slot, attempt) if uid else f"stranger-{slot}",
            "uid": f"{slot}/{attempt}",
            "labels": OWNED | {labels.NODEPOOL: "kaito"},
            "annotations": {
                labels.WORKSPACE_UID: uid,
                labels.CLAIM_SLOT: str(slot),
                labels.CLAIM_ATTEMPT: str(attempt),
            }
            if uid
            else {},
        },
        "status": {"conditions": conditions, "nodeName": node},
    }
    if deleting:
        content["metadata"]["deletionTimestamp"] = NOW.isoformat()
    if machine:
        return msgspec.convert(content, Machine)
    content["spec"] = {"nodeClassRef": {"group": "a", "kind": "b", "name": "c"}, "requirements": []}
    return msgspec.convert(content, NodeClaim)


def slots(claims: Sequence[Claim], target: int, brought: int = 0) -> tuple[list[tuple[int, int]], list[str]]:
    plan = plan_slots(claims, UID, target, brought, NOW)
    return list(plan.creates), [gone.metadata.uid for gone in plan.deletes]


MINUTE = timedelta(minutes=1)
LONG_AGO = NOW - timedelta(hours=5)

SLOTS: dict[str, tuple[list[Claim], int, list[tuple[int, int]], list[str]]] = {
    "nothing yet": ([], 2, [(0, 0), (1, 0)], []),
    "all there": ([claim(0), claim(1)], 2, [], []),
    "one missing": ([claim(1)], 2, [(0, 0)], []),
    "grown": ([claim(0)], 3, [(1, 0), (2, 0)], []),
    "shrunk": ([claim(0), claim(1), claim(2)], 1, [], ["1/0", "2/0"]),
    "being deleted is replaced": ([claim(0, deleting=True)], 1, [(0, 1)], []),
    "replacement stands already": ([claim(0, deleting=True), claim(0, 1)], 1, [], []),
    "two attempts alive": ([claim(0), claim(0, 1)], 1, [], ["0/1"]),
    "two attempts alive, the later is ready": ([claim(0), claim(0, 1, ready=True)], 1, [], ["0/0"]),
    "failed just now": ([claim(0, failed=("InsufficientCapacity", NOW))], 1, [], []),
    "failed long ago, and a later attempt stands": (
        [claim(0, failed=("QuotaExceeded", LONG_AGO)), claim(0, 1)],
        1,
        [],
        ["0/0"],
    ),
    "failed long ago": ([claim(0, failed=("InsufficientCapacity", LONG_AGO))], 1, [(0, 1)], ["0/0"]),
    "failed for a reason that passes": ([claim(0, failed=("CloudBusy", LONG_AGO))], 1, [], []),
    "Machine that can never work": ([claim(0, machine=True, failed=("InvalidClaim", LONG_AGO))], 1, [(0, 1)], ["0/0"]),
    "Machine that is still tried": ([claim(0, machine=True, failed=("InsufficientCapacity", LONG_AGO))], 1, [], []),
    "NodeClaim whose size is not offered": ([claim(0, failed=("SKUNotAvailable", LONG_AGO))], 1, [(0, 1)], ["0/0"]),
    "namesake's claims do not count": ([claim(0, uid="other")], 1, [(0, 0)], []),
    "another controller's claim fills a slot": ([claim(7, uid="")], 1, [], []),
    "another controller's claims are never deleted": ([claim(7, uid=""), claim(8, uid="")], 1, [], []),
}


@pytest.mark.parametrize(("claims", "target", "creates", "deletes"), SLOTS.values(), ids=SLOTS.keys())
def test_slots(claims: list[Claim], target: int, creates: list[tuple[int, int]], deletes: list[str]) -> None:
    assert slots(claims, target) == (creates, deletes)
    assert slots(claims[::-1], target) == (creates, deletes)


@pytest.mark.parametrize(("attempt", "minutes"), [(0, 1), (1, 2), (2, 4), (4, 16), (5, 30), (50, 30)], ids=str)
def test_pauses_between_attempts_grow(attempt: int, minutes: int) -> None:
    waiting = plan_slots([claim(0, attempt, failed=("QuotaExceeded", NOW))], UID, 1, 0, NOW)
    assert waiting.requeue_after == minutes * 60
    assert waiting.creates == ()
    assert "QuotaExceeded" in waiting.failed[0]
    later = NOW + minutes * MINUTE
    assert plan_slots([claim(0, attempt, failed=("QuotaExceeded", NOW))], UID, 1, 0, later).creates == (
        (0, attempt + 1),
    )


def test_brought_nodes_fill_slots_but_delete_nothing() -> None:
    assert slots([], 2, brought=1) == ([(0, 0)], [])
    assert slots([claim(0), claim(1)], 2, brought=2) == ([], [])


observed = st.lists(
    st.builds(
        claim,
        st.integers(0, 5),
        st.integers(0, 3),
        deleting=st.booleans(),
        ready=st.booleans(),
        failed=st.one_of(st.none(), st.tuples(st.just("QuotaExceeded"), st.sampled_from([NOW, LONG_AGO]))),
    ),
    max_size=8,
    unique_by=lambda found: found.metadata.name,
)


@given(observed, st.integers(0, 5))
def test_carrying_the_plan_out_converges(claims: list[Claim], target: int) -> None:
    plan = plan_slots(claims, UID, target, 0, NOW)
    assert len(plan.live) + len(plan.creates) == target
    names = {found.metadata.name for found in claims}
    made = [claim(slot, attempt) for slot, attempt in plan.creates]
    assert names.isdisjoint(new.metadata.name for new in made), "a name was used again while its claim stands"
    kept = [found for found in claims if found not in plan.deletes]
    again = plan_slots([*kept, *made], UID, target, 0, NOW)
    assert again.creates == ()
    assert again.deletes == ()


@given(observed, st.integers(0, 4))
def test_a_higher_target_never_deletes_more(claims: list[Claim], target: int) -> None:
    fewer, more = (plan_slots(claims, UID, count, 0, NOW) for count in (target, target + 1))
    assert set(map(id, more.deletes)) <= set(map(id, fewer.deletes))


@given(observed.flatmap(st.permutations), st.integers(0, 5))
def test_the_order_of_observation_does_not_matter(claims: list[Claim], target: int) -> None:
    one, other = (
        plan_slots(found, UID, target, 0, NOW) for found in (claims, sorted(claims, key=lambda c: c.metadata.name))
    )
    assert one.creates == other.creates
    assert set(map(id, one.deletes)) == set(map(id, other.deletes))


class World:
    """What plan_nodes sees."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self.catalog = catalog
        self.settings = settings

    def plan(self, workspace: Workspace, nodes: Sequence[Node] = (), claims: Sequence[Claim] = ()) -> NodePlan:
        verdict = validate(workspace, self.catalog, self.settings, nodes=nodes)
        assert verdict.sizing is not None, verdict.errors
        return plan_nodes(workspace, nodes, claims, verdict.sizing, self.settings, NOW)


@pytest.fixture
def world(catalog: Catalog) -> World:
    return World(catalog, Settings())


def test_claims_are_asked_for(world: World, workspace: MakeWorkspace) -> None:
    plan = world.plan(workspace(TWO_A10))
    assert plan.target_count == 2
    assert [made.name for made in plan.creates] == [claim_name(UID, 0, 0), claim_name(UID, 1, 0)]
    assert plan.blocked is not None
    assert plan.blocked.reason is Reason.NODE_CLAIM_NOT_READY
    assert "2 of 2 node(s) of Standard_NV36ads_A10_v5" in plan.blocked.message


def test_nodes_become_complete_step_by_step(world: World, workspace: MakeWorkspace, node: MakeNode) -> None:
    wanted = workspace(TWO_A10)
    claims = [claim(0, node="n1"), claim(1, node="n2")]
    type_ = {labels.INSTANCE_TYPE: "Standard_NV36ads_A10_v5"}
    steps = [
        ([], Reason.NODE_NOT_READY, "0 of 2"),
        ([node("n1", OWNED | type_), node("n2", OWNED | type_, ready=False)], Reason.NODE_NOT_READY, "1 of 2"),
        (
            [node("n1", OWNED | type_), node("n2", OWNED | type_, gpus=0)],
            Reason.NODE_PLUGINS_NOT_READY,
            "n2 offers 0 of 1",
        ),
        (
            [node("n1", OWNED | type_), node("n2", OWNED | {labels.INSTANCE_TYPE: "Standard_D2"})],
            Reason.NODE_NOT_READY,
            "n2 is a Standard_D2",
        ),
    ]
    for nodes, reason, words in steps:
        plan = world.plan(wanted, nodes, claims)
        assert plan.creates == ()
        assert plan.blocked is not None
        assert (plan.blocked.reason, words in plan.blocked.message) == (reason, True), plan.blocked
    plan = world.plan(wanted, [node("n2", OWNED | type_), node("n1", OWNED | type_)], claims)
    assert plan.blocked is None
    assert plan.worker_nodes == ("n1", "n2")


def test_another_workspaces_nodes_do_not_count(world: World, workspace: MakeWorkspace, node: MakeNode) -> None:
    namesake = OWNED | {labels.WORKSPACE_NAMESPACE: "other-team"}
    assert world.plan(workspace(), [node("n1", namesake), node("n2", {"apps": "phi"})]).worker_nodes == ()


def test_claims_follow_the_api(catalog: Catalog, workspace: MakeWorkspace) -> None:
    plan = World(catalog, Settings(claim_api=ClaimApi.MACHINE)).plan(workspace(), claims=[claim(4, machine=True)])
    assert [made.resource.kind for made in plan.creates] == ["Machine"]
    assert [gone.resource.kind for gone in plan.deletes] == ["Machine"]
    assert plan.deletes[0].uid == "4/0"


BYO = "{resource: {instanceType: null}}"


def test_bring_your_own_without_a_node_names_the_cheapest_machine(world: World, workspace: MakeWorkspace) -> None:
    plan = world.plan(workspace(BYO))
    assert plan.bring_your_own
    assert plan.creates == ()
    assert plan.blocked is not None
    assert plan.blocked.reason is Reason.INSTANCE_TYPE_MISSING
    assert "no node carries apps=phi" in plan.blocked.message
    assert "Standard_NC6s_v3 (1 node at about 3.06 USD an hour), the cheapest that fits" in plan.blocked.message


def test_bring_your_own_names_whose_the_nodes_are(world: World, workspace: MakeWorkspace, node: MakeNode) -> None:
    theirs = {"apps": "phi", labels.WORKSPACE: "other", labels.WORKSPACE_NAMESPACE: "red"}
    plan = world.plan(workspace(BYO), [node("a", theirs)])
    assert plan.worker_nodes == ()
    assert plan.blocked is not None
    assert plan.blocked.reason is Reason.NOT_ENOUGH_NODES
    assert "0 of 1 node(s) with apps=phi can be used" in plan.blocked.message
    assert "a serves Workspace red/other: label another node" in plan.blocked.message


def test_bring_your_own_counts_and_checks(world: World, workspace: MakeWorkspace, node: MakeNode) -> None:
    gpu = {
        "apps": "phi",
        labels.GPU_COUNT: "1",
        labels.GPU_MEMORY: "24576",
        labels.CUDA_COMPUTE_MAJOR: "8",
        labels.CUDA_COMPUTE_MINOR: "6",
    }
    wanted = workspace("{resource: {instanceType: null}, inference: {preset: {name: phi-4}}}")
    nodes = [
        node("a", gpu),
        node("b", gpu, ready=False),
        node("c", gpu, cordoned=True),
        node("d", gpu, gpus=0),
        node("e", gpu | {labels.WORKSPACE: "somebody", labels.WORKSPACE_NAMESPACE: "else"}),
    ]
    plan = world.plan(wanted, nodes)
    assert plan.target_count == 2
    assert plan.worker_nodes == ("a",)
    assert plan.blocked is not None
    assert plan.blocked.reason is Reason.NOT_ENOUGH_NODES
    for words in ("1 of 2", "b is not Ready", "c is cordoned", "d offers 0 of 1", "e serves Workspace else/somebody"):
        assert words in plan.blocked.message
    plan = world.plan(wanted, [*nodes, node("f", gpu)])
    assert plan.blocked is None
    assert plan.worker_nodes == ("a", "f")


def test_bring_your_own_is_known_by_its_instance_type_too(
    world: World, workspace: MakeWorkspace, node: MakeNode
) -> None:
    plan = world.plan(workspace(BYO), [node("a", {"apps": "phi", labels.INSTANCE_TYPE: "Standard_NC6s_v3"})])
    assert plan.blocked is None
    assert plan.worker_nodes == ("a",)


def test_bring_your_own_of_unknown_memory_trusts_the_count(
    world: World, workspace: MakeWorkspace, node: MakeNode
) -> None:
    plan = world.plan(workspace("{resource: {instanceType: null, count: 2}}"), [node("a", {"apps": "phi"})])
    assert plan.target_count == 2
    assert plan.blocked is not None


def test_claims_are_given_back_when_the_user_brings_nodes(
    world: World, workspace: MakeWorkspace, node: MakeNode
) -> None:
    plan = world.plan(workspace(BYO), [node("a", {"apps": "phi"})], [claim(0), claim(1, uid="")])
    assert [gone.uid for gone in plan.deletes] == ["0/0"]
