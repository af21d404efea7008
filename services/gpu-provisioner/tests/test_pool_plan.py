"""The decision for one agent pool, row by row and by random histories."""

import random

import msgspec
import pytest
from pool_builders import CAPACITY, bound, free, leaving, listed, machine, pool, provider

from gpu_provisioner.cloud.failure import CloudFailure
from gpu_provisioner.pools.plan import (
    Action,
    CloudPool,
    Delete,
    DeleteMachines,
    Demand,
    Machine,
    Outcome,
    PoolObservation,
    Put,
    bind,
    machine_name,
    plan_pool,
)

ROWS: list[tuple[str, PoolObservation, Action | None, dict[str, Outcome]]] = [
    (
        "nothing is decided before the cloud was read",
        PoolObservation(claims=(free("a"),), pool=None, known=False),
        None,
        {"a": Outcome.WAITING},
    ),
    (
        "two claims, no pool: one PUT for both",
        PoolObservation(claims=(free("a"), free("b")), pool=None, known=True),
        Put(2),
        {},
    ),
    (
        "a failure is waited out before the next PUT",
        PoolObservation(claims=(free("a"),), pool=None, known=True, blocked=CAPACITY),
        None,
        {"a": Outcome.FAILED},
    ),
    (
        "a stranger's pool is not touched",
        PoolObservation(claims=(free("a"), leaving("b", 0, released=True)), pool=pool(owned=False), known=True),
        None,
        {"a": Outcome.FAILED, "b": Outcome.GONE},
    ),
    (
        "the node binds before the operation has ended",
        PoolObservation(claims=(free("a"),), pool=pool("Creating"), known=True, machines=(machine(0),)),
        None,
        {"a": Outcome.BOUND},
    ),
    (
        "AKS works: wait",
        PoolObservation(claims=(free("a"),), pool=pool("Creating"), known=True),
        None,
        {"a": Outcome.WAITING},
    ),
    (
        "a third claim raises the count",
        PoolObservation(
            claims=(bound("a", 0), bound("b", 1), free("c")),
            pool=pool(count=2),
            known=True,
            machines=(machine(0), machine(1)),
        ),
        Put(3),
        {"c": Outcome.WAITING},
    ),
    (
        "a count that is higher than we need is never lowered",
        PoolObservation(claims=(bound("a", 0), free("b")), pool=pool("Failed", 5), known=True, machines=(machine(0),)),
        Put(5),
        {},
    ),
    (
        "partial allocation keeps what came and fails the rest",
        PoolObservation(
            claims=(free("a"), free("b"), free("c")),
            pool=pool("Failed", 3, failure=CAPACITY),
            known=True,
            machines=(machine(0), machine(1)),
            blocked=CAPACITY,
        ),
        None,
        {"a": Outcome.BOUND, "b": Outcome.BOUND, "c": Outcome.FAILED},
    ),
    (
        "the only claim goes during the create: DELETE at once",
        PoolObservation(claims=(leaving("a"),), pool=pool("Creating"), known=True),
        Delete(),
        {"a": Outcome.WAITING},
    ),
    (
        "a draining node is not deleted",
        PoolObservation(claims=(leaving("a", 0),), pool=pool(), known=True, machines=(machine(0),)),
        None,
        {"a": Outcome.WAITING},
    ),
    (
        "the last machine takes the pool along",
        PoolObservation(claims=(leaving("a", 0, released=True),), pool=pool(), known=True, machines=(machine(0),)),
        Delete(),
        {"a": Outcome.WAITING},
    ),
    (
        "one of three leaves by name",
        PoolObservation(
            claims=(bound("a", 0), leaving("b", 1, released=True), bound("c", 2)),
            pool=pool(count=3),
            known=True,
            machines=(machine(0), machine(1), machine(2)),
            listed=listed(0, 1, 2),
        ),
        DeleteMachines((machine_name(provider(1)),)),
        {"b": Outcome.WAITING},
    ),
    (
        "gone only when the cloud says so of the very machine",
        PoolObservation(
            claims=(bound("a", 0), leaving("b", 1, released=True)),
            pool=pool(count=1),
            known=True,
            machines=(machine(0),),
            listed=listed(0),
            absent=listed(1),
        ),
        None,
        {"b": Outcome.GONE},
    ),
    (
        "no pool: a leaving claim is done, a bound one has lost its machine",
        PoolObservation(claims=(leaving("a", 0), bound("b", 1)), pool=None, known=True),
        None,
        {"a": Outcome.GONE, "b": Outcome.VANISHED},
    ),
    (
        "a LIST without the pool is no proof: neither bound nor leaving claims are touched",
        PoolObservation(claims=(leaving("a", 0), bound("b", 1), free("c")), pool=None, known=True, unproven=True),
        None,
        {"a": Outcome.WAITING, "b": Outcome.WAITING, "c": Outcome.WAITING},
    ),
    (
        "a claim that has nothing yet may buy without the proof: the PUT is conditional",
        PoolObservation(claims=(free("a"),), pool=None, known=True, unproven=True),
        Put(1),
        {"a": Outcome.WAITING},
    ),
    (
        "what cannot be read is said",
        PoolObservation(claims=(free("a"), bound("b", 0)), pool=None, known=False, blocked=CAPACITY),
        None,
        {"a": Outcome.FAILED, "b": Outcome.WAITING},
    ),
    (
        "a machine that AKS does not list and that has no Node is lost",
        PoolObservation(
            claims=(bound("a", 0), bound("b", 1)),
            pool=pool(count=2),
            known=True,
            machines=(machine(0),),
            listed=listed(0),
            absent=listed(1),
        ),
        None,
        {"a": Outcome.BOUND, "b": Outcome.VANISHED},
    ),
    (
        "fewer machines than the count says: the count is asked for again",
        PoolObservation(
            claims=(bound("a", 0), free("b")),
            pool=pool(count=2),
            known=True,
            machines=(machine(0),),
            listed=listed(0),
        ),
        Put(2),
        {"b": Outcome.WAITING},
    ),
    (
        "a machine that never joined and that nobody waits for goes",
        PoolObservation(
            claims=(bound("a", 0),), pool=pool(count=2), known=True, machines=(machine(0),), listed=listed(0, 1)
        ),
        DeleteMachines((machine_name(provider(1)),)),
        {"a": Outcome.BOUND},
    ),
    (
        "an unbound leaving claim waits while AKS may still bring its machine",
        PoolObservation(
            claims=(bound("a", 0), leaving("b")), pool=pool("Scaling", 2), known=True, machines=(machine(0),)
        ),
        None,
        {"b": Outcome.WAITING},
    ),
    (
        "a machine without a claim goes after a while",
        PoolObservation(
            claims=(bound("a", 0),),
            pool=pool(count=2),
            known=True,
            machines=(machine(0), machine(1, first_seen=60.0)),
            listed=listed(0, 1),
        ),
        DeleteMachines((machine_name(provider(1)),)),
        {"a": Outcome.BOUND},
    ),
    (
        "a fresh machine without a claim stays for now",
        PoolObservation(
            claims=(bound("a", 0),), pool=pool(count=2), known=True, machines=(machine(0), machine(1, first_seen=95.0))
        ),
        None,
        {"a": Outcome.BOUND},
    ),
    (
        "an orphan pool goes after a while",
        PoolObservation(claims=(), pool=pool(), known=True, first_seen=50.0),
        Delete(),
        {},
    ),
    (
        "a fresh pool without claims stays for now",
        PoolObservation(claims=(), pool=pool(), known=True, first_seen=90.0),
        None,
        {},
    ),
    (
        "a pool under deletion is not asked again",
        PoolObservation(claims=(leaving("a", 0, released=True),), pool=pool("Deleting"), known=True),
        None,
        {"a": Outcome.WAITING},
    ),
    (
        "an unknown state counts as work in progress",
        PoolObservation(claims=(free("a"),), pool=pool("Migrating", 0), known=True),
        None,
        {"a": Outcome.WAITING},
    ),
    (
        "a failed pool that was waited out is PUT again",
        PoolObservation(claims=(free("a"),), pool=pool("Failed", 1, failure=CAPACITY), known=True),
        Put(1),
        {"a": Outcome.FAILED},
    ),
]


def silent(uid: str, since: float = 0.0) -> Demand:
    return Demand(uid=uid, awaited_since=since)


@pytest.mark.parametrize(
    ("claims", "now", "names", "action", "lost"),
    [
        ((silent("a"),), 899.0, listed(0), None, set()),
        ((silent("a"),), 900.0, listed(0), Delete(), {"a"}),
        ((bound("a", 0), silent("b")), 900.0, listed(0, 1), DeleteMachines((machine_name(provider(1)),)), {"b"}),
        ((bound("a", 0), silent("b"), silent("c", 500.0)), 900.0, listed(0, 1, 2), "one", {"b"}),
        ((bound("a", 0), silent("b")), 900.0, listed(0), Put(2), set()),
    ],
    ids=["in time", "alone: the pool goes", "the neighbour stays", "only the late one", "AKS lists no such machine"],
)
def test_a_machine_that_never_joins(
    claims: tuple[Demand, ...], now: float, names: frozenset[str], action: Action | str | None, lost: set[str]
) -> None:
    machines = tuple(machine(0) for c in claims if c.provider_id)
    seen = PoolObservation(
        claims=claims, pool=pool(count=len(claims)), known=True, machines=machines, listed=names, listed_at=now
    )
    decision = plan_pool(seen, now)
    assert {o.uid for o in decision.outcomes if o.outcome is Outcome.NEVER_JOINED} == lost
    if action == "one":
        assert isinstance(decision.action, DeleteMachines)
        assert len(decision.action.names) == 1
    else:
        assert decision.action == action
    unasked = plan_pool(msgspec.structs.replace(seen, listed=None), now)
    assert unasked.action is None, "AKS is asked first"


@pytest.mark.parametrize(("seen", "action", "outcomes"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_decisions(seen: PoolObservation, action: Action | None, outcomes: dict[str, Outcome]) -> None:
    decision = plan_pool(seen, now=100.0)
    assert decision.action == action
    told = {o.uid: o.outcome for o in decision.outcomes}
    assert {uid: told[uid] for uid in outcomes} == outcomes
    assert set(told) == {c.uid for c in seen.claims}


def test_machines_are_listed_before_any_is_removed() -> None:
    seen = PoolObservation(
        claims=(bound("a", 0), leaving("b", 1, released=True)),
        pool=pool(count=2),
        known=True,
        machines=(machine(0), machine(1)),
    )
    decision = plan_pool(seen, now=100.0)
    assert decision.action is None
    assert decision.wants_machines


def test_a_binding_survives_looks_that_decide_nothing() -> None:
    """It may be known to this process only, until the claim's status is written."""
    for seen in (
        PoolObservation(claims=(bound("a", 0), leaving("b", 1)), pool=None, known=False),
        PoolObservation(claims=(bound("a", 0), leaving("b", 1)), pool=pool("Updating", 2), known=True),
    ):
        outcomes = {o.uid: o.provider_id for o in plan_pool(seen, now=100.0).outcomes}
        assert outcomes == {"a": provider(0), "b": provider(1)}


@pytest.mark.parametrize(
    ("change", "asks"),
    [
        ({}, False),
        ({"missed_since": 60.0}, True),
        ({"missed_since": 90.0}, False),
        ({"missed_since": 60.0, "listed_at": 50.0}, False),
        ({"count": 2, "first_seen": 60.0}, True),
        ({"count": 2, "first_seen": 90.0}, False),
    ],
)
def test_machines_are_listed_when_the_count_or_a_missing_node_is_in_doubt(change: dict[str, float], asks: bool) -> None:
    seen = PoolObservation(
        claims=(Demand(uid="a", provider_id=provider(0), missed_since=change.get("missed_since")),),
        pool=pool(count=int(change.get("count", 1))),
        known=True,
        first_seen=change.get("first_seen", 0.0),
        listed_at=change.get("listed_at", float("-inf")),
        machines=() if "missed_since" in change else (machine(0),),
    )
    decision = plan_pool(seen, now=100.0)
    assert decision.wants_machines == asks
    assert decision.action is None
    assert asks or change == {} or decision.recheck_after is not None


def test_stored_bindings_win_and_the_oldest_claim_is_served_first() -> None:
    claims = (free("old"), bound("kept", 0), free("young"))
    assert bind(claims, (machine(2, 5.0), machine(0, 1.0), machine(1, 3.0))) == {
        "kept": provider(0),
        "old": provider(1),
        "young": provider(2),
    }


@pytest.mark.parametrize(
    ("provider_id", "name"),
    [
        (provider(0), "aks-p-1-vmss000000"),
        (provider(10), "aks-p-1-vmss00000a"),
        (provider(36), "aks-p-1-vmss000010"),
        ("kind://docker/kind/node-1", "node-1"),
    ],
)
def test_machine_names_count_in_base_36(provider_id: str, name: str) -> None:
    assert machine_name(provider_id) == name


class World:
    """A cloud that keeps its promises, and claims that come and go at random: one pool's whole history."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.claims: dict[str, Demand] = {}
        self.pool: CloudPool | None = None
        self.machines: dict[str, Machine] = {}
        self.failure: CloudFailure | None = None
        self.created = 0
        self.booted = 0
        self.now = 0.0

    def step(self) -> None:
        """One event of the outside world."""
        event = self.random.choice(
            ["create", "create", "delete", "drain", "cloud", "cloud", "cloud", "fail", "recover"]
        )
        if event == "create" and self.created < 12:
            self.created += 1
            self.claims[f"c{self.created}"] = free(f"c{self.created}")
        elif event == "delete" and self.claims:
            uid = self.random.choice(list(self.claims))
            self.claims[uid] = msgspec.structs.replace(self.claims[uid], deleting=True)
        elif event == "drain":
            self.drain()
        elif event == "cloud":
            self.cloud()
        elif event == "fail" and self.pool is not None and not self.pool.settled and not self.pool.going:
            self.pool = msgspec.structs.replace(self.pool, state="Failed", failure=CAPACITY)
            self.failure = CAPACITY
        elif event == "recover":
            self.failure = None
        self.now += self.random.choice([0.1, 1.0, 40.0])

    def drain(self) -> None:
        for uid, claim in self.claims.items():
            if claim.deleting and claim.provider_id:
                self.claims[uid] = msgspec.structs.replace(claim, released=True)

    def cloud(self) -> None:
        """AKS finishes what it was told."""
        if self.pool is None or self.pool.settled:
            return
        if self.pool.going:
            self.pool, self.machines = None, {}
            return
        while len(self.machines) < self.pool.count:
            fresh = machine(self.booted, self.now)
            self.machines[fresh.name] = fresh
            self.booted += 1
        self.pool = msgspec.structs.replace(self.pool, state="Succeeded", failure=None)

    def reconcile(self) -> bool:
        """Observe, plan, apply; True when something changed."""
        seen = PoolObservation(
            claims=tuple(self.claims.values()),
            pool=self.pool,
            known=True,
            machines=tuple(self.machines.values()),
            blocked=self.failure,
            listed=frozenset(self.machines),
            absent=frozenset(
                machine_name(c.provider_id)
                for c in self.claims.values()
                if c.provider_id and machine_name(c.provider_id) not in self.machines
            ),
        )
        decision = plan_pool(seen, self.now)
        for outcome in decision.outcomes:
            claim = self.claims[outcome.uid]
            if outcome.outcome is Outcome.BOUND:
                assert claim.provider_id in ("", outcome.provider_id), "a binding was changed"
                self.claims[outcome.uid] = msgspec.structs.replace(claim, provider_id=outcome.provider_id)
            elif outcome.outcome is Outcome.GONE:
                assert claim.deleting
                assert not claim.provider_id or machine_name(claim.provider_id) not in self.machines
                del self.claims[outcome.uid]
        held = [c.provider_id for c in self.claims.values() if c.provider_id]
        assert len(held) == len(set(held)), "one machine for two claims"
        return self.act(decision.action) or any(o.outcome is Outcome.GONE for o in decision.outcomes)

    def act(self, action: Action | None) -> bool:
        if isinstance(action, Put):
            assert self.pool is None or self.pool.settled
            assert self.pool is None or action.count >= self.pool.count, "a PUT lowered the count"
            self.pool = pool("Creating" if self.pool is None else "Scaling", action.count)
        elif isinstance(action, Delete):
            alive = [c for c in self.claims.values() if not c.deleting or (c.provider_id and not c.released)]
            assert not alive, "the pool of a claim that needs it was deleted"
            assert self.pool is not None
            self.pool = msgspec.structs.replace(self.pool, state="Deleting")
        elif isinstance(action, DeleteMachines):
            assert self.pool is not None
            kept = {machine_name(c.provider_id) for c in self.claims.values() if c.provider_id and not c.released}
            assert not kept & set(action.names), "the machine of a claim that needs it was deleted"
            for name in action.names:
                del self.machines[name]
            self.pool = msgspec.structs.replace(self.pool, count=self.pool.count - len(action.names))
        return action is not None


@pytest.mark.parametrize("seed", range(200))
def test_random_histories_end_with_one_machine_for_each_live_claim_and_nothing_else(seed: int) -> None:
    world = World(seed)
    for _ in range(60):
        world.step()
        world.reconcile()
    world.failure = None
    for _ in range(60):
        world.drain()
        world.cloud()
        world.now += 31.0
        world.reconcile()
    assert all(c.provider_id and not c.deleting for c in world.claims.values())
    assert {machine_name(c.provider_id) for c in world.claims.values()} == set(world.machines)
    assert (world.pool is None) == (not world.claims)
    assert not world.reconcile(), "a settled world is left alone"
