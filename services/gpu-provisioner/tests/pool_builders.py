"""Builders of pools, machines and claims' demands for the tests of the decision."""

from gpu_provisioner.cloud.failure import CloudFailure, FailureClass
from gpu_provisioner.pools.plan import CloudPool, Demand, Machine, machine_name

CAPACITY = CloudFailure(failure=FailureClass.CAPACITY, code="AllocationFailed", message="none left", retry_after=180.0)


def provider(number: int) -> str:
    return f"azure:///subscriptions/s/virtualMachineScaleSets/aks-p-1-vmss/virtualMachines/{number}"


def machine(number: int, first_seen: float = 0.0) -> Machine:
    return Machine(name=machine_name(provider(number)), provider_id=provider(number), first_seen=first_seen)


def pool(
    state: str = "Succeeded", count: int = 1, *, owned: bool = True, failure: CloudFailure | None = None
) -> CloudPool:
    return CloudPool(name="p", state=state, count=count, owned=owned, failure=failure)


def listed(*numbers: int) -> frozenset[str]:
    return frozenset(machine_name(provider(n)) for n in numbers)


def free(uid: str) -> Demand:
    return Demand(uid=uid)


def bound(uid: str, number: int) -> Demand:
    return Demand(uid=uid, provider_id=provider(number))


def leaving(uid: str, number: int | None = None, *, released: bool = False) -> Demand:
    return Demand(uid=uid, provider_id="" if number is None else provider(number), deleting=True, released=released)
