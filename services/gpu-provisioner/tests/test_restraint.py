"""What failed, what is stuck and what is not proven: the decision holds back, says why, and comes again."""

import msgspec
import pytest
from pool_builders import CAPACITY, bound, free, leaving, listed, machine, pool

from gpu_provisioner.cloud.bucket import Verb
from gpu_provisioner.cloud.failure import CloudFailure, FailureClass
from gpu_provisioner.pools.plan import (
    OPERATION_SECONDS,
    Action,
    Delete,
    DeleteMachines,
    Demand,
    Hold,
    Outcome,
    PoolDecision,
    PoolObservation,
    Put,
    plan_pool,
)
from gpu_provisioner.pools.restraint import restrain

DENIED = CloudFailure(failure=FailureClass.UNAUTHORIZED, code="AuthorizationFailed", message="no", retry_after=60.0)
LONE = PoolObservation(claims=(leaving("a", 0, released=True),), pool=pool(), known=True, machines=(machine(0),))
ONE_OF_TWO = PoolObservation(
    claims=(bound("a", 0), leaving("b", 1, released=True)),
    pool=pool(count=2),
    known=True,
    machines=(machine(0), machine(1)),
    listed=listed(0, 1),
)


def decide(seen: PoolObservation, now: float = 100.0, **changes: object) -> PoolDecision:
    seen = msgspec.structs.replace(seen, **changes)
    return restrain(seen, plan_pool(seen, now), now)


def told(decision: PoolDecision) -> dict[str, tuple[Outcome, str]]:
    return {o.uid: (o.outcome, o.failure.failure if o.failure else "") for o in decision.outcomes}


@pytest.mark.parametrize(
    ("seen", "verb", "other", "action"),
    [
        (LONE, Verb.DELETE, Verb.DELETE_MACHINES, Delete),
        (ONE_OF_TWO, Verb.DELETE_MACHINES, Verb.DELETE, DeleteMachines),
    ],
    ids=["the pool", "one machine"],
)
def test_a_removal_that_was_refused_is_waited_out_and_said(
    seen: PoolObservation, verb: Verb, other: Verb, action: type[Action]
) -> None:
    assert isinstance(decide(seen).action, action), "at once the first time"
    held = decide(seen, holds={verb: Hold(DENIED, 40.0)})
    leaver = seen.claims[-1].uid
    assert (held.action, held.recheck_after) == (None, 40.0)
    assert told(held)[leaver] == (Outcome.WAITING, FailureClass.UNAUTHORIZED)
    assert "Grant the provisioner's identity the role" in held.outcomes[-1].message
    again = decide(seen, holds={verb: Hold(DENIED, 0.0)})
    assert isinstance(again.action, action)
    assert told(again)[leaver] == (Outcome.WAITING, FailureClass.UNAUTHORIZED), "until it has succeeded"
    assert isinstance(decide(seen, holds={other: Hold(DENIED, 40.0)}).action, action), "another call may be allowed"


def test_machines_are_not_listed_for_a_removal_that_may_not_be_sent() -> None:
    held = decide(ONE_OF_TWO, listed=None, listed_at=90.0, holds={Verb.DELETE_MACHINES: Hold(DENIED, 40.0)})
    assert (held.wants_machines, held.recheck_after) == (False, 40.0)
    later = decide(ONE_OF_TWO, listed=None, listed_at=30.0, holds={Verb.DELETE_MACHINES: Hold(DENIED, 40.0)})
    assert later.wants_machines, "somebody else may have removed it"


def test_what_cannot_be_read_holds_up_nothing_else_and_is_said() -> None:
    held = decide(
        ONE_OF_TWO, claims=(*ONE_OF_TWO.claims, free("c")), listed=None, holds={Verb.READ: Hold(DENIED, 40.0)}
    )
    assert not held.wants_machines
    assert held.action == Put(3)
    assert told(held) == {
        "a": (Outcome.BOUND, ""),
        "b": (Outcome.WAITING, FailureClass.UNAUTHORIZED),
        "c": (Outcome.FAILED, FailureClass.UNAUTHORIZED),
    }
    unproven = decide(LONE, unproven=True, holds={Verb.READ: Hold(DENIED, 40.0)})
    assert (unproven.wants_pool, unproven.action, unproven.recheck_after) == (False, None, 40.0)


def test_a_leaving_claim_learns_that_the_pools_cannot_be_listed() -> None:
    unread = decide(LONE, known=False, unreadable=DENIED)
    assert told(unread) == {"a": (Outcome.WAITING, FailureClass.UNAUTHORIZED)}


@pytest.mark.parametrize("state", ["Creating", "Updating"])
@pytest.mark.parametrize(
    ("claims", "machines", "action"),
    [
        ((free("a"),), (), Delete()),
        ((bound("a", 0), free("b")), (machine(0),), None),
        ((free("a"), free("b")), (machine(0),), None),
    ],
    ids=["nobody has a machine: it is made anew", "somebody has: a person decides", "its Node has come just now"],
)
def test_a_stuck_pool(
    state: str, claims: tuple[Demand, ...], machines: tuple[object, ...], action: Action | None
) -> None:
    seen = PoolObservation(
        claims=claims, pool=pool(state, len(claims)), known=True, machines=machines, working_since=100.0
    )
    waits = decide(seen, now=160.0)
    assert (waits.action, waits.recheck_after) == (None, OPERATION_SECONDS - 60.0)
    assert told(waits)[claims[-1].uid] == (Outcome.WAITING, "")
    gives_up = decide(seen, now=100.0 + OPERATION_SECONDS)
    assert gives_up.action == action
    assert (gives_up.failure is not None) == (action is not None)
    assert told(gives_up)[claims[-1].uid] == (Outcome.FAILED, FailureClass.STUCK)
    text = str(gives_up.outcomes[-1].failure)
    assert f"agent pool p ({state}) for more than 30 minutes" in text
    assert "az aks nodepool operation-abort" in text


def test_a_deletion_that_is_stuck_is_said_and_not_sent_again() -> None:
    seen = msgspec.structs.replace(LONE, pool=pool("Deleting"), working_since=0.0)
    late = decide(seen, now=OPERATION_SECONDS)
    assert late.action is None
    assert told(late) == {"a": (Outcome.WAITING, FailureClass.STUCK)}


@pytest.mark.parametrize(
    ("claim", "outcome", "kept"),
    [
        (leaving("b", 1, released=True), Outcome.GONE, Outcome.WAITING),
        (bound("b", 1), Outcome.VANISHED, Outcome.BOUND),
    ],
    ids=["leaving", "live"],
)
def test_a_machine_that_the_list_leaves_out_is_asked_for(claim: Demand, outcome: Outcome, kept: Outcome) -> None:
    seen = PoolObservation(
        claims=(bound("a", 0), claim), pool=pool(count=2), known=True, machines=(machine(0),), listed=listed(0)
    )
    doubted = decide(seen)
    assert told(doubted)["b"] == (kept, "")
    assert doubted.wants_proof == tuple(listed(1))
    proven = decide(seen, absent=listed(1))
    assert told(proven)["b"] == (outcome, "")
    assert proven.wants_proof == ()
    assert told(decide(seen, listed=listed(0, 1), absent=listed(1)))["b"] == (kept, ""), "it is there after all"


def test_a_failure_of_put_delays_no_removal() -> None:
    assert decide(LONE, blocked=CAPACITY, blocked_for=180.0).action == Delete()
