"""The fault script: which requests and operations go wrong, how, and how often."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Route = Literal["put", "get", "list", "delete", "operation", "post", "machines", "machine", "token"]
Effect = Literal[
    "answer",  # answer with `status`, `body` and `headers` and do nothing
    "drop",  # do the work, then close the connection without an answer
    "hang",  # never answer
    "half-list",  # a LIST that leaves out every second pool or machine
    "empty-list",  # a LIST that leaves out all of them
    "fail-operation",  # the operation ends Failed with `error`
    "partial",  # `machines` machines come, then the operation ends Failed with `error`
    "stuck-operation",  # the pool becomes Succeeded, its operation stays InProgress
    "failed-but-alive",  # the machines come up, pool and operation end Failed
    "no-node",  # the operation succeeds, the machine's Node never appears
    "stuck-pool",  # pool and operation stay as they are, Creating or Updating; no machine comes
]
OPERATION_EFFECTS = {"fail-operation", "partial", "stuck-operation", "failed-but-alive", "no-node", "stuck-pool"}

LIST_EFFECTS = {"half-list", "empty-list"}


def flat(code: str, message: str, subcode: str = "") -> dict[str, object]:
    """An error body as the AKS resource provider writes it."""
    return {"code": code, "message": message, "details": None, "subcode": subcode}


def nested(code: str, message: str, details: Iterable[dict[str, object]] = ()) -> dict[str, object]:
    """An error body as the ARM gateway writes it."""
    return {"error": {"code": code, "message": message, "details": list(details)}}


@dataclass
class Fault:
    """One line of the script: applies to the next `times` requests of `route` whose pool name matches `pool`."""

    route: Route
    effect: Effect
    pool: str = ".*"
    times: int = 1
    skip: int = 0
    status: int = 500
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    error: dict[str, object] = field(default_factory=dict)
    machines: int = 0


class FaultScript:
    """The faults still to come, consumed in the order in which they were added."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._faults = list(faults)

    def add(self, fault: Fault) -> None:
        """Appends a line."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Forgets what is still to come."""
        self._faults.clear()

    def next(self, route: Route, pool: str) -> Fault | None:
        """The fault for this request, used up once; None when the request goes through."""
        for fault in self._faults:
            if fault.route != route or fault.times <= 0 or not re.fullmatch(fault.pool, pool):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            fault.times -= 1
            return fault
        return None
