"""What tests see of a stand-in that runs in a container: the wire form of its pools, operations and journal."""

from typing import Any

import msgspec

from kaito_local.arm.cloud import Cloud, Timings
from kaito_local.arm.nodes import MachineSpec
from kaito_local.arm.routes import Call, Wire


class PoolState(msgspec.Struct, frozen=True):
    """A pool, named as in `arm.cloud.Pool`."""

    name: str
    properties: dict[str, Any]
    state: str
    machines: dict[str, MachineSpec]


class OperationState(msgspec.Struct, frozen=True):
    """An operation, named as in `arm.cloud.Operation`."""

    id: str
    pool: str
    verb: str
    status: str


class ArmState(msgspec.Struct, frozen=True):
    """Everything at one moment."""

    pools: dict[str, PoolState]
    operations: dict[str, OperationState]
    journal: list[Call]


def state_of(wire: Wire) -> ArmState:
    """The state as it is now."""
    cloud = wire.cloud
    return ArmState(
        pools={
            pool.name: PoolState(pool.name, pool.properties, pool.state, pool.machines) for pool in cloud.pools.values()
        },
        operations={
            each.id: OperationState(each.id, each.pool, each.verb, each.status) for each in cloud.operations.values()
        },
        journal=wire.journal,
    )


def reset(wire: Wire, timings: Timings) -> None:
    """Makes the stand-in new: no pools, nothing under way, no faults to come, an empty journal, these timings."""
    cloud: Cloud = wire.cloud
    for operation in cloud.operations.values():
        if operation.task is not None:
            operation.task.cancel()
    for kept in (cloud.operations, cloud.pools, wire.journal, wire.tokens):
        kept.clear()
    wire.faults.clear()
    cloud.timings = timings
