"""The queue's promises, checked against random scripts and one by one."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kubecore.backoff import BackoffPolicy
from kubecore.testing.clock import FakeClock
from kubecore.workqueue import WorkQueue

KEYS = st.sampled_from("abcde")


class QueueMachine(RuleBasedStateMachine):
    """Drives a queue and a naive model of what must come out of it."""

    @initialize()
    def start(self) -> None:
        self.clock = FakeClock()
        self.queue: WorkQueue[str] = WorkQueue(clock=self.clock)
        self.working: set[str] = set()
        self.ready: dict[str, bool] = {}  # key -> low
        self.again: dict[str, bool] = {}
        self.due: dict[str, tuple[float, bool]] = {}

    def expect_add(self, key: str, low: bool) -> None:
        target = self.again if key in self.working else self.ready
        target[key] = low and target.get(key, True)

    @rule(key=KEYS, low=st.booleans())
    def add(self, key: str, low: bool) -> None:
        self.queue.add(key, low=low)
        self.expect_add(key, low)

    @rule(key=KEYS, delay=st.integers(1, 20), low=st.booleans())
    def add_after(self, key: str, delay: int, low: bool) -> None:
        self.queue.add_after(key, delay, low=low)
        at = self.clock.monotonic() + delay
        if key not in self.due or self.due[key][0] > at:
            self.due[key] = (at, low)

    @rule(seconds=st.integers(1, 10))
    def time_passes(self, seconds: int) -> None:
        self.clock.tick(seconds)
        for key, (at, low) in sorted(self.due.items(), key=lambda item: item[1][0]):
            if at <= self.clock.monotonic():
                del self.due[key]
                self.expect_add(key, low)

    @precondition(lambda self: self.ready)
    @rule()
    def get(self) -> None:
        key = self.queue._pop()
        assert key in self.ready
        assert key not in self.working
        assert not self.ready[key] or all(self.ready.values()), "a low key came before a normal one"
        del self.ready[key]
        self.due.pop(key, None)
        self.working.add(key)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        self.queue.done(key)
        self.working.remove(key)
        if key in self.again:
            self.expect_add(key, self.again.pop(key))

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert len(self.queue) == len(self.ready)
        assert self.queue.in_work == len(self.working)
        assert self.queue.delayed == len(self.due)
        assert (self.queue._pop() is None) if not self.ready else True


QueueMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestQueueMachine = QueueMachine.TestCase


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(clock: FakeClock) -> WorkQueue[str]:
    return WorkQueue(clock=clock, backoff=BackoffPolicy(base=1, cap=60))


async def test_first_in_first_out_and_each_once(queue: WorkQueue[str]) -> None:
    for key in "abacb":
        queue.add(key)
    assert [await queue.get() for _ in range(3)] == ["a", "b", "c"]
    assert len(queue) == 0


async def test_fresh_changes_overtake_the_first_list(queue: WorkQueue[str]) -> None:
    for number in range(1000):
        queue.add(f"old-{number}", low=True)
    queue.add("fresh")
    queue.add("old-999")
    assert [await queue.get() for _ in range(3)] == ["fresh", "old-999", "old-0"]


async def test_a_key_in_work_is_handed_out_again_only_when_done(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_every_waiter_is_served(queue: WorkQueue[str]) -> None:
    async with asyncio.TaskGroup() as group:
        waiters = [group.create_task(queue.get()) for _ in range(3)]
        await asyncio.sleep(0)
        for key in "abc":
            queue.add(key)
    assert sorted(waiter.result() for waiter in waiters) == ["a", "b", "c"]


async def test_a_cancelled_waiter_passes_its_wake_up_on(queue: WorkQueue[str]) -> None:
    first, second = (asyncio.get_running_loop().create_task(queue.get()) for _ in range(2))
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    assert await asyncio.wait_for(second, 30) == "a"


async def test_delays(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add_after("late", 10)
    queue.add_after("soon", 2)
    queue.add_after("late", 30)  # the earlier time stays
    clock.tick(2)
    assert [await queue.get(), len(queue)] == ["soon", 0]
    clock.tick(8)
    assert await queue.get() == "late"
    clock.tick(100)
    assert len(queue) == 0


@pytest.mark.parametrize("delay", [0, -1, float("-inf")])
async def test_no_delay_means_soon_and_not_never(queue: WorkQueue[str], clock: FakeClock, delay: float) -> None:
    queue.add_after("a", delay)
    assert len(queue) == 0
    clock.tick(0.02)
    assert await queue.get() == "a"


async def test_handing_a_key_out_makes_its_delay_void(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add_after("a", 5)
    queue.add("a")
    await queue.get()
    queue.add_after("a", 9)
    queue.done("a")
    clock.tick(8)
    assert len(queue) == 0
    clock.tick(1)
    assert len(queue) == 1


async def test_failures_back_off_per_key(queue: WorkQueue[str]) -> None:
    delays = [queue.add_backoff("a") for _ in range(10)]
    for number, delay in enumerate(delays):
        whole = min(60, 2**number)
        assert whole / 2 < delay <= whole
    assert queue.add_backoff("b") <= 1
    assert queue.failures("a") == 10
    queue.forget("a")
    assert queue.add_backoff("a") <= 1
    assert queue.add_backoff("b", at_least=40) == 40


async def test_shutdown_sends_waiters_home_and_waits_for_work(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("dropped")
    assert await queue.get() == "a"
    queue.add("a")
    queue.shutdown()
    queue.add("late")
    queue.add_after("later", 1)
    assert await queue.get() is None
    assert (len(queue), queue.delayed, queue.in_work) == (0, 0, 1)
    async with asyncio.TaskGroup() as group:
        drained = group.create_task(queue.join())
        await asyncio.sleep(0)
        assert not drained.done()
        queue.done("a")
    assert len(queue) == 0


def test_backoff_policy_never_overflows() -> None:
    policy = BackoffPolicy(base=0.05, cap=120)
    assert policy.delay(100_000, 0.0) == 120
    assert policy.delay(0, 0.999) >= 0.025
