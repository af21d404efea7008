"""The ARM stand-in of a container, seen by a test as if it ran in its own process.

Only what tests read and script: a test that acts as the service from inside (makes a pool by hand, moves its clock, throttles)
needs a stand-in of its own.
"""

import http.client
from pathlib import Path

import msgspec

from kaito_local.arm.cloud import Identity, Timings
from kaito_local.arm.faults import Fault
from kaito_local.arm.routes import Call
from kaito_local.compose.arm_state import ArmState, OperationState, PoolState
from kaito_local.compose.stack import ArmPlace
from kaito_local.errors import LocalError


class RemoteControl:
    """Calls of the control port: short and blocking, because tests read the state between two awaits."""

    def __init__(self, address: str) -> None:
        """`address` as host:port."""
        self._address = address

    def state(self) -> ArmState:
        """Everything at this moment."""
        return msgspec.json.decode(self._call("GET", "/state"), type=ArmState)

    def reset(self, timings: Timings) -> None:
        """A stand-in as new."""
        self._call("POST", "/reset", msgspec.json.encode(timings))

    def add(self, fault: Fault) -> None:
        """Appends a line to the fault script."""
        self._call("POST", "/faults", msgspec.json.encode(fault))

    def clear(self) -> None:
        """Forgets the faults still to come."""
        self._call("DELETE", "/faults")

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise LocalError(f"{method} {path} of the ARM stand-in answered {answer.status}: {content[:500]!r}")
        return content


class RemoteCloud:
    """`Cloud`, to be read."""

    def __init__(self, control: RemoteControl) -> None:
        """Asks `control` at each access."""
        self._control = control

    @property
    def pools(self) -> dict[str, PoolState]:
        """The pools at this moment, by name."""
        return self._control.state().pools

    @property
    def operations(self) -> dict[str, OperationState]:
        """The operations at this moment, by id."""
        return self._control.state().operations


class RemoteWire:
    """`Wire`, to be read and scripted."""

    def __init__(self, control: RemoteControl) -> None:
        """Asks `control` at each access."""
        self._control = control
        self.faults = control
        self.cloud = RemoteCloud(control)

    @property
    def journal(self) -> list[Call]:
        """The calls since the last reset."""
        return self._control.state().journal


class RemoteArm:
    """`ArmStandIn` of a container, as new."""

    def __init__(self, place: ArmPlace, timings: Timings | None = None) -> None:
        """Resets it: whatever an earlier test left is gone."""
        control = RemoteControl(place.control)
        control.reset(timings or Timings())
        self.url = place.url
        self.certificate = Path(place.certificate)
        self.identity = Identity()
        self.wire = RemoteWire(control)
