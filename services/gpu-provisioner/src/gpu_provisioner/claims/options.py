"""A claim's requirements as an ordered list of concrete alternatives, or the reason why none can be honoured."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from gpu_provisioner.claims.view import ClaimView
from kaito_api import labels
from kaito_api.nodeclaim import Requirement

ON_DEMAND = "on-demand"
SPOT = "spot"
INSTANCE_TYPE_KEYS = (labels.INSTANCE_TYPE, labels.SKU_NAME)
_DECIDED = frozenset({*INSTANCE_TYPE_KEYS, labels.TOPOLOGY_ZONE, labels.CAPACITY_TYPE, labels.OS, labels.ARCH})
"""Keys whose values decide what is bought; under all others a requirement asks for a label of the node."""
_ARCHITECTURES = ("amd64", "arm64")
_ARM_SIZE = re.compile(r"^Standard_[A-Z]+\d+(-\d+)?[a-z]*p[a-z]*_", re.IGNORECASE)


class LaunchOption(msgspec.Struct, frozen=True):
    """One alternative: an Azure VM size, an availability zone ("" for regional) and a capacity type."""

    vm_size: str
    zone: str
    capacity_type: str

    def __str__(self) -> str:
        return f"{self.vm_size}/{self.zone or '-'}/{self.capacity_type}"


class InvalidClaim(msgspec.Struct, frozen=True):
    """Why the claim can never be launched as it stands, and what to do about it."""

    message: str


def parse_option(text: str) -> LaunchOption | None:
    """The option that str() wrote, None for anything else."""
    parts = text.split("/")
    if len(parts) != 3:
        return None
    return LaunchOption(parts[0], "" if parts[1] == "-" else parts[1], parts[2])


def launch_options(claim: ClaimView) -> tuple[LaunchOption, ...] | InvalidClaim:
    """All alternatives in the order in which they are tried: spot before on-demand, then as the claim lists them.

    Every requirement is honoured, or the claim is refused: what it excludes is not bought by default either.
    """
    by_key = _by_key(claim)
    try:
        for key, requirements in by_key.items():
            _check(key, requirements, claim.labels.get(key))
        _check_system(by_key.get(labels.OS, []))
        sizes = _sizes(by_key)
        zones = _zones(by_key.get(labels.TOPOLOGY_ZONE, []))
        capacity = _capacity(by_key.get(labels.CAPACITY_TYPE, []), claim.labels.get(labels.CAPACITY_TYPE, ON_DEMAND))
    except _RefusedError as refused:
        return InvalidClaim(str(refused))
    return tuple(LaunchOption(size, zone, kind) for kind in capacity for size in sizes for zone in zones)


def single_valued_labels(claim: ClaimView) -> dict[str, str]:
    """Labels that the node gets from requirements that leave one value, except those that the cloud itself sets."""
    left = {key: _admitted(requirements) for key, requirements in _by_key(claim).items() if key not in _DECIDED}
    return {key: values[0] for key, values in left.items() if len(values) == 1}


def architecture(vm_size: str) -> str:
    """amd64, or arm64 for the sizes whose feature letters contain p (Azure's naming convention)."""
    return "arm64" if _ARM_SIZE.match(vm_size) else "amd64"


def _by_key(claim: ClaimView) -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for requirement in claim.requirements:
        found.setdefault(requirement.key, []).append(requirement)
    return found


class _RefusedError(Exception):
    """Why the requirements cannot be honoured."""


def _check(key: str, requirements: list[Requirement], label: str | None) -> None:
    """Raises for an operator that an agent pool cannot honour under this key. `label`: the claim's own, which its node gets."""
    for requirement in requirements:
        operators = ("In", "NotIn", "Exists") if key in _DECIDED else ("In", "NotIn", "DoesNotExist")
        if requirement.operator not in operators:
            raise _unable(requirement)
    if key in _DECIDED:
        return
    named = [r for r in requirements if r.operator == "In"]
    absent = any(r.operator == "DoesNotExist" for r in requirements)
    left = _admitted(requirements, () if label is None else (label,))
    if label is not None and label not in left:
        left = []  # the node gets the claim's labels, whatever the requirements say
    if (named or label is not None) and (absent or not left):
        raise _nothing_left(requirements, "" if label is None else f"the claim's label {key}={label}")
    if len(left) > 1 and label is None:
        raise _unable(named[0])


def _check_system(requirements: list[Requirement]) -> None:
    systems = _some(requirements, ("linux",))
    if "linux" not in systems:
        raise _RefusedError(f"operating system {', '.join(systems)} is not offered: GPU pools run linux")


def _sizes(by_key: dict[str, list[Requirement]]) -> list[str]:
    """VM sizes of the required architecture."""
    naming = [r for key in INSTANCE_TYPE_KEYS for r in by_key.get(key, [])]
    if not any(r.operator == "In" for r in naming):
        raise _RefusedError(
            f"the claim names no instance type: give requirements[] an entry with key {labels.INSTANCE_TYPE}, operator In, and "
            "the Azure VM sizes to try, the preferred one first"
        )
    sizes = _some(naming, ())
    arch = _some(by_key.get(labels.ARCH, []), _ARCHITECTURES)
    fitting = [size for size in sizes if architecture(size) in arch]
    if not fitting:
        raise _RefusedError(
            f"no instance type of {', '.join(sizes)} has the required architecture {', '.join(arch)}: correct the claim, then "
            "create it anew"
        )
    return fitting


def _zones(requirements: list[Requirement]) -> list[str]:
    """Zone numbers; one "" for a regional pool, which may come to stand in any zone."""
    numbers = [
        msgspec.structs.replace(r, values=[value.rpartition("-")[2] for value in r.values]) for r in requirements
    ]
    excludes = any(r.operator == "NotIn" for r in numbers)
    return _some(numbers, () if excludes else ("",), "a machine of no named zone may stand in any")


def _capacity(requirements: list[Requirement], default: str) -> list[str]:
    wanted = _some(requirements, (default,), f"{default} where none is named")
    offered = [kind for kind in (SPOT, ON_DEMAND) if kind in wanted]
    if not offered:
        raise _RefusedError(f"capacity type {', '.join(wanted)} is not offered: use {ON_DEMAND} or {SPOT}")
    return offered


def _some(requirements: list[Requirement], default: Sequence[str], otherwise: str = "") -> list[str]:
    """The values that all requirements admit, at least one."""
    left = _admitted(requirements, default)
    if not left:
        raise _nothing_left(requirements, otherwise)
    return left


def _admitted(requirements: list[Requirement], default: Sequence[str] = ()) -> list[str]:
    """Values that every In names, in the first one's order (`default` where there is none), less those that a NotIn excludes."""
    named = [r.values for r in requirements if r.operator == "In"]
    excluded = {value for r in requirements if r.operator == "NotIn" for value in r.values}
    first = named[0] if named else default
    return [v for v in dict.fromkeys(first) if all(v in values for values in named) and v not in excluded]


def _nothing_left(requirements: list[Requirement], otherwise: str) -> _RefusedError:
    shown = " and ".join(_shown(r) for r in requirements)
    said = f" ({otherwise})" if otherwise else ""
    return _RefusedError(
        f"requirement {shown} leaves no value{said}: name one that nothing excludes with operator In, and create the claim anew"
    )


def _unable(requirement: Requirement) -> _RefusedError:
    return _RefusedError(
        f"requirement {_shown(requirement)} cannot be honoured by an AKS agent pool: use operator In with concrete values"
    )


def _shown(requirement: Requirement) -> str:
    return f"{requirement.key} {requirement.operator} {', '.join(requirement.values)}".rstrip()
