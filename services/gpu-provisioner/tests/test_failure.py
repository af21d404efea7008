"""Answers of Azure, each in the shape in which it comes, and the class that they get."""

import pytest

from gpu_provisioner.claims.options import LaunchOption
from gpu_provisioner.cloud.bucket import FairBucket
from gpu_provisioner.cloud.failure import ErrorDetail, FailureClass, classify
from gpu_provisioner.cloud.stockouts import Stockouts

QUOTA = (
    "Operation could not be completed as it results in exceeding approved standardNCSv3Family Cores quota. Additional details - "
    "Deployment Model: Resource Manager, Location: eastus, Current Limit: {limit}, Current Usage: 0, Additional Required: 6, "
    "(Minimum) New Limit Required: 6."
)


def quota(limit: int) -> ErrorDetail:
    return ErrorDetail("QuotaExceeded", "", (ErrorDetail("OperationNotAllowed", QUOTA.format(limit=limit)),))


def wrapped(outer: str, inner: str) -> ErrorDetail:
    return ErrorDetail(outer, "", (ErrorDetail(inner, "the cause"),))


BUSY = ErrorDetail("OperationNotAllowed", "Another agentpool operation (p - Creating) is in progress")
NOT_YOURS = ErrorDetail("BadRequest", "The VM size of X is not allowed in your subscription in location 'eastus'")


@pytest.mark.parametrize(
    ("status", "error", "expected", "permanent"),
    [
        (
            400,
            ErrorDetail("ErrCode_InsufficientVCPUQuota", "left regional quota 4, requested 6"),
            FailureClass.QUOTA,
            False,
        ),
        (
            400,
            ErrorDetail("ErrCode_InsufficientVCPUQuota", "left regional quota 0, requested 6"),
            FailureClass.QUOTA,
            True,
        ),
        (200, quota(12), FailureClass.QUOTA, False),
        (200, quota(0), FailureClass.QUOTA, True),
        (409, BUSY, FailureClass.CONFLICT, False),
        (412, ErrorDetail("PreconditionFailed", "The pool exists."), FailureClass.CONFLICT, False),
        (400, BUSY, FailureClass.CONFLICT, False),
        (400, ErrorDetail("VMSizeNotSupported", "no"), FailureClass.SKU_NOT_AVAILABLE, False),
        (400, NOT_YOURS, FailureClass.SKU_NOT_AVAILABLE, False),
        (200, wrapped("ReconcileVMSSAgentPoolFailed", "AllocationFailed"), FailureClass.CAPACITY, False),
        (200, ErrorDetail("ZonalAllocationFailed", "no room in zone 1"), FailureClass.CAPACITY, False),
        (400, ErrorDetail("AvailabilityZoneNotSupported", "zone 3"), FailureClass.ZONE, False),
        (200, ErrorDetail("AKSOperationPreemptedByDelete", "canceled"), FailureClass.PREEMPTED, False),
        (429, ErrorDetail("Throttled", "slow down"), FailureClass.THROTTLED, False),
        (200, wrapped("CreateVMSSAgentPoolFailed", "TooManyRequestsReceived"), FailureClass.THROTTLED, False),
        (403, ErrorDetail("AuthorizationFailed", "no"), FailureClass.UNAUTHORIZED, False),
        (401, ErrorDetail("ExpiredAuthenticationToken", "old"), FailureClass.UNAUTHORIZED, False),
        (404, ErrorDetail("NotFound", "Agent Pool not found"), FailureClass.NOT_FOUND, False),
        (404, ErrorDetail("ResourceNotFound", "managedClusters/x was not found"), FailureClass.CLUSTER_NOT_FOUND, True),
        (400, ErrorDetail("InvalidParameter", "bad label"), FailureClass.BAD_INPUT, True),
        (400, ErrorDetail("MaxAgentPoolCountReached", "100 pools"), FailureClass.POOL_LIMIT, False),
        (408, ErrorDetail("", "timeout"), FailureClass.SERVER, False),
        (503, ErrorDetail("ServiceUnavailable", "later"), FailureClass.SERVER, False),
    ],
)
def test_classes(status: int, error: ErrorDetail, expected: FailureClass, permanent: bool) -> None:
    failure = classify(status, error)
    assert (failure.failure, failure.permanent) == (expected, permanent)
    assert failure.message
    assert failure.retry_after > 0


def test_the_message_keeps_the_numbers_and_says_what_to_do() -> None:
    text = str(classify(200, quota(0)))
    assert "Current Limit: 0" in text
    assert "New Limit Required: 6" in text
    assert text.endswith("Ask Azure for more quota of this family in the region, or name another instance type.")


def test_retry_after_is_obeyed_when_it_is_longer() -> None:
    assert classify(429, ErrorDetail("Throttled", "x"), retry_after=240).retry_after == 240
    assert classify(429, ErrorDetail("Throttled", "x"), retry_after=1).retry_after == 15


def test_a_stock_out_moves_the_next_claim_on_until_its_time_is_over() -> None:
    spot, demand = LaunchOption("A", "", "spot"), LaunchOption("A", "", "on-demand")
    memory = Stockouts()
    memory.record(spot, classify(200, ErrorDetail("AllocationFailed", "x")), now=0.0)
    assert memory.choose((spot, demand), now=1.0) == demand
    assert memory.choose((spot,), now=1.0) is None
    assert memory.until((spot,)) == 600.0
    assert memory.choose((spot, demand), now=600.0) == spot
    memory.record(demand, classify(429, ErrorDetail("Throttled", "x")), now=0.0)
    assert memory.choose((demand,), now=1.0) == demand


def test_the_bucket_lets_a_burst_through_and_then_one_a_minute() -> None:
    bucket = FairBucket(2, 1 / 60)
    assert [bucket.take(name, "w", 0.0) for name in ("a", "b")] == [0.0, 0.0]
    wait = bucket.take("c", "w", 0.0)
    assert wait == pytest.approx(60.0)
    assert bucket.take("c", "w", 59.0) > 0
    assert bucket.take("c", "w", 60.0) == 0.0


def test_owners_take_turns() -> None:
    bucket = FairBucket(1, 1.0)
    assert bucket.take("a0", "big", 0.0) == 0.0
    for number in range(1, 6):
        bucket.take(f"a{number}", "big", 0.0)
    small = bucket.take("b0", "small", 0.0)
    assert small == pytest.approx(2.0), "the second turn, not the sixth"


def test_retry_after_holds_everybody() -> None:
    bucket = FairBucket(5, 1.0)
    bucket.pause(30.0, 0.0)
    assert bucket.take("a", "w", 1.0) == pytest.approx(29.0)
    assert bucket.take("a", "w", 30.0) == 0.0


def test_a_waiter_that_went_away_does_not_hold_the_line() -> None:
    bucket = FairBucket(1, 1.0)
    bucket.take("a", "w", 0.0)
    bucket.take("dead", "x", 0.0)
    bucket.take("alive", "y", 0.0)
    assert bucket.take("alive", "y", 10.0) == 0.0
    assert bucket.waiting == 0
