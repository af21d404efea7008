"""Why a cloud call failed: one class for each thing that a person or the provisioner can do about it.

Source: answers of the AKS resource provider and of ARM, by HTTP status, code, message and details together, since one code
(OperationNotAllowed) means a conflict or a quota, and wrappers carry the cause only in their details.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

import msgspec


class FailureClass(StrEnum):
    """What went wrong, in the terms of what to do next."""

    QUOTA = "QuotaExceeded"
    SKU_NOT_AVAILABLE = "SKUNotAvailable"
    CAPACITY = "InsufficientCapacity"
    ZONE = "ZoneNotSupported"
    CONFLICT = "OperationInProgress"
    PREEMPTED = "OperationPreempted"
    NOT_FOUND = "NotFound"
    CLUSTER_NOT_FOUND = "ClusterNotFound"
    THROTTLED = "Throttled"
    UNAUTHORIZED = "Unauthorized"
    BAD_INPUT = "InvalidRequest"
    SERVER = "CloudUnavailable"
    NAME_TAKEN = "PoolNameTaken"
    POOL_LIMIT = "AgentPoolLimit"
    STUCK = "OperationStuck"


NEXT_OPTION = frozenset({FailureClass.QUOTA, FailureClass.SKU_NOT_AVAILABLE, FailureClass.CAPACITY, FailureClass.ZONE})
"""Classes for which another instance type, zone or capacity type may succeed."""

_ADVICE = {
    FailureClass.QUOTA: "Ask Azure for more quota of this family in the region, or name another instance type.",
    FailureClass.SKU_NOT_AVAILABLE: "The subscription cannot use this size in the region: name another one or request access.",
    FailureClass.CAPACITY: "Azure has no machine of this size free now; it is tried again. More instance types or zones help.",
    FailureClass.ZONE: "Name another zone, or none.",
    FailureClass.CONFLICT: "AKS works on another operation; it is tried again when that ends.",
    FailureClass.PREEMPTED: "A later operation replaced this one; it is tried again.",
    FailureClass.CLUSTER_NOT_FOUND: "Check the subscription, resource group and cluster name in the provisioner's settings.",
    FailureClass.THROTTLED: "AKS limits the rate of requests; it is tried again when the limit allows.",
    FailureClass.UNAUTHORIZED: "Grant the provisioner's identity the role that its documentation shows.",
    FailureClass.BAD_INPUT: "AKS refuses the request as it stands: correct the claim, then create it anew.",
    FailureClass.SERVER: "Azure did not answer properly; it is tried again.",
    FailureClass.POOL_LIMIT: "Delete agent pools that nobody needs, or let equal claims share pools; it is tried again.",
    FailureClass.STUCK: "See az aks nodepool show; az aks nodepool operation-abort ends the operation. A pool in which no claim "
    "has a machine is deleted and made anew.",
    FailureClass.NAME_TAKEN: "An agent pool of this name belongs to somebody else: delete it or rename the claim.",
}

_REMOVAL_ADVICE = {
    FailureClass.BAD_INPUT: "AKS refuses to remove it as things stand: look at the agent pool in Azure; it is tried again.",
}
"""Where the next step is another one while something is removed."""


class CloudFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A classified failure. `retry_after` is in seconds; `permanent` means that nothing changes without a person."""

    failure: FailureClass
    code: str
    message: str
    retry_after: float
    permanent: bool = False

    @property
    def advice(self) -> str:
        """What to do next, one sentence."""
        return _ADVICE.get(self.failure, "")

    @property
    def removal(self) -> str:
        """What is told to whom waits for a machine's removal: the failure and what to do next."""
        return f"{self.message.rstrip('. ')}. {_REMOVAL_ADVICE.get(self.failure, self.advice)}".strip()

    def __str__(self) -> str:
        return f"{self.message.rstrip('. ')}. {self.advice}".strip()


class CloudError(Exception):
    """A cloud call that failed, with its class."""

    def __init__(self, failure: CloudFailure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class ErrorDetail(msgspec.Struct, frozen=True):
    """One error of ARM's nested form."""

    code: str = ""
    message: str = ""
    details: tuple[ErrorDetail, ...] = ()


_QUOTA_CODES = {"errcode_insufficientvcpuquota", "quotaexceeded", "insufficientvcpuquota"}
_SKU_CODES = {"vmsizenotsupported", "skunotavailable"}
_SKU_WORDS = (
    "is not supported for subscription",
    "not allowed in your subscription in location",
    "is not available in location",
)
_CAPACITY_CODES = {
    "allocationfailed",
    "zonalallocationfailed",
    "overconstrainedallocationrequest",
    "overconstrainedzonalallocationrequest",
    "akscapacityerror",
    "akscapacityheavyusage",
}
_CONFLICT_CODES = {"conflict", "anotheroperationinprogress"}
_PREEMPTED_CODES = {"canceled", "aksoperationpreempted", "aksoperationpreemptedbydelete"}
_THROTTLE_CODES = {"throttled", "toomanyrequestsreceived", "subscriptionrequeststhrottled", "toomanyrequests"}
_AUTH_CODES = {
    "expiredauthenticationtoken",
    "authorizationfailed",
    "invalidauthenticationtoken",
    "requestdisallowedbypolicy",
}
_LIMIT_CODES = {
    "maxagentpoolcountreached",
    "agentpoolcountlimitreached",
}  # the exact code was not seen on the real service
_CLUSTER_CODES = {"resourcenotfound", "resourcegroupnotfound", "subscriptionnotfound"}
_ZERO_QUOTA = re.compile(r"(current limit|left regional quota|remaining)\D{0,20}\b0\b(?!\.?\d)")
_MAX_MESSAGE = 600


def classify(status: int, error: ErrorDetail, retry_after: float | None = None) -> CloudFailure:
    """The class of an answer. `status` is the HTTP status (200 for a failed operation), `retry_after` in seconds."""
    chain = tuple(_flatten(error))
    codes = {e.code.lower() for e in chain}
    text = " ".join(e.message for e in chain).lower()
    failure = _class(status, codes, text)
    permanent = failure in (FailureClass.BAD_INPUT, FailureClass.CLUSTER_NOT_FOUND) or (
        failure is FailureClass.QUOTA and bool(_ZERO_QUOTA.search(text))
    )
    deepest = max(chain, key=lambda e: len(e.message), default=error)
    message = deepest.message or error.message or f"HTTP {status}"
    return CloudFailure(
        failure=failure,
        code=error.code,
        message=message[:_MAX_MESSAGE],
        retry_after=max(retry_after or 0.0, _delay(failure, permanent=permanent)),
        permanent=permanent,
    )


def _class(status: int, codes: set[str], text: str) -> FailureClass:
    if status == 429 or codes & _THROTTLE_CODES:
        return FailureClass.THROTTLED
    if codes & _PREEMPTED_CODES:
        return FailureClass.PREEMPTED
    for failure, matched in (
        (FailureClass.CONFLICT, status in (409, 412) or "in progress" in text or codes & _CONFLICT_CODES),
        (FailureClass.QUOTA, codes & _QUOTA_CODES or "quota" in text),
        (FailureClass.SKU_NOT_AVAILABLE, codes & _SKU_CODES or any(words in text for words in _SKU_WORDS)),
        (FailureClass.CAPACITY, codes & _CAPACITY_CODES),
        (FailureClass.ZONE, "availabilityzonenotsupported" in codes),
        (FailureClass.POOL_LIMIT, codes & _LIMIT_CODES),
        (FailureClass.UNAUTHORIZED, status in (401, 403) or codes & _AUTH_CODES),
        (FailureClass.CLUSTER_NOT_FOUND, status == 404 and codes & _CLUSTER_CODES and "agentpools" not in text),
        (FailureClass.NOT_FOUND, status == 404),
        (FailureClass.BAD_INPUT, 400 <= status < 500 and status != 408),
    ):
        if matched:
            return failure
    return FailureClass.SERVER


def _delay(failure: FailureClass, *, permanent: bool) -> float:
    """Seconds until the same request may be sent again."""
    if permanent:
        return 3600.0
    return {
        FailureClass.QUOTA: 600.0,
        FailureClass.SKU_NOT_AVAILABLE: 3600.0,
        FailureClass.CAPACITY: 180.0,
        FailureClass.ZONE: 3600.0,
        FailureClass.CONFLICT: 5.0,
        FailureClass.PREEMPTED: 1.0,
        FailureClass.THROTTLED: 15.0,
        FailureClass.UNAUTHORIZED: 60.0,
        FailureClass.NAME_TAKEN: 60.0,
        FailureClass.POOL_LIMIT: 60.0,
    }.get(failure, 5.0)


def _flatten(error: ErrorDetail) -> Iterable[ErrorDetail]:
    yield error
    for inner in error.details:
        yield from _flatten(inner)
