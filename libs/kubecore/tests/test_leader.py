"""The election's rules as a pure state machine, and what wall clocks do to it. Real candidates: test_manager.py."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from kaito_api.core import Lease, LeaseSpec
from kaito_api.meta import ObjectMeta
from kubecore.client import Client
from kubecore.leader import LeaderConfig, LeaderElector, LeaseState
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import FakeClock
from kubecore.testing.server import ScriptedServer, obj, reply


def lease(version: int, holder: str | None, seconds: int | None = 4) -> Lease:
    spec = LeaseSpec(
        holder_identity=holder, lease_duration_seconds=seconds, renew_time=datetime(2026, 1, 1, tzinfo=UTC)
    )
    return Lease(metadata=ObjectMeta(name="l", namespace="n", resource_version=str(version)), spec=spec)


@pytest.fixture
def state() -> LeaseState:
    return LeaseState("me", renew_deadline=3.0)


class TestTaking:
    def test_a_free_lease_at_once(self, state: LeaseState) -> None:
        state.observe(lease(1, None), 4, now=100)
        assert state.wait_before_taking(100) == 0

    def test_our_own_lease_at_once(self, state: LeaseState) -> None:
        state.observe(lease(1, "me"), 4, now=100)
        assert state.wait_before_taking(100) == 0

    def test_anothers_only_after_it_stood_still_for_its_duration(self, state: LeaseState) -> None:
        state.observe(lease(1, "other"), 4, now=100)
        assert state.wait_before_taking(100) == 4
        state.observe(lease(1, "other"), 4, now=103)
        assert state.wait_before_taking(103) == 1
        state.observe(lease(2, "other"), 4, now=103.5)
        assert state.wait_before_taking(104) == 3.5
        assert state.wait_before_taking(107.5) == 0

    def test_the_holders_own_duration_counts(self, state: LeaseState) -> None:
        state.observe(lease(1, "other", seconds=15), 4, now=100)
        assert state.wait_before_taking(110) == 5

    def test_a_duration_that_is_missing_is_ours(self, state: LeaseState) -> None:
        state.observe(lease(1, "other", seconds=None), 4, now=100)
        assert state.wait_before_taking(100) == 4

    def test_a_lease_from_long_ago_is_watched_first(self, state: LeaseState) -> None:
        """Its renewTime is not compared with our wall clock, which may be anything."""
        state.observe(lease(1, "other"), 4, now=1e9)
        assert state.wait_before_taking(1e9) == 4


class TestLeading:
    def test_counted_from_when_the_renewal_was_sent(self, state: LeaseState) -> None:
        assert not state.leads(0)
        state.granted(asked_at=100)
        assert state.leads(102.9)
        assert not state.leads(103)

    def test_ends_before_anybody_else_may_begin(self, state: LeaseState) -> None:
        other = LeaseState("other", renew_deadline=3.0)
        state.granted(asked_at=100)  # stored at 100 at the earliest, seen by the other then at the earliest
        other.observe(lease(7, "me"), 4, now=100)
        taken_at = 100 + other.wait_before_taking(100)
        assert not state.leads(taken_at - 0.5)

    def test_lost_is_lost_at_once(self, state: LeaseState) -> None:
        state.granted(asked_at=100)
        state.lost()
        assert not state.leads(100)


@pytest.mark.parametrize(
    "times",
    [
        {"renew_deadline": 4.0},
        {"renew_deadline": 5.0},
        {"renew_seconds": 2.9},
        {"retry_seconds": 2.0},
        {"lease_seconds": 3},
    ],
)
def test_times_that_allow_two_leaders_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="need lease_seconds"):
        LeaderConfig("l", "n", **times)


async def test_a_wall_clock_that_jumps_changes_nothing(server: ScriptedServer, client: Client) -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/n/leases"
    ours = obj("l", 1, "n", spec={"holderIdentity": "me", "leaseDurationSeconds": 4})
    server.on("POST", leases, reply(ours, 201))
    server.on("PATCH", f"{leases}/l", reply(ours))
    clock = FakeClock()
    elector = LeaderElector(client, LeaderConfig("l", "n", identity="me"), clock)
    await elector.acquire()
    async with asyncio.TaskGroup() as group:
        holding = group.create_task(elector.hold())
        for jump in (3600, -86400, 86400 * 365):
            clock.jump_wall(jump)
            before = server.count("PATCH")
            await eventually(lambda: clock.sleepers)
            await clock.advance(1)
            await eventually(lambda seen=before: server.count("PATCH") > seen)
            assert elector.is_leader
        holding.cancel()
    assert server.last("PATCH").json["spec"]["renewTime"].endswith("Z")
    clock.tick(3)
    assert not elector.is_leader, "a leader whose renewals stopped must stop by its own clock"
