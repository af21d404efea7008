"""A claim's requirements as an ordered list of concrete alternatives, or the reason why none can be honoured."""

from __future__ import annotations

import re

import msgspec

from gpu_provisioner.claims.view import ClaimView
from kaito_api import labels
from kaito_api.nodeclaim import Requirement

ON_DEMAND = "on-demand"
SPOT = "spot"
INSTANCE_TYPE_KEYS = (labels.INSTANCE_TYPE, labels.SKU_NAME)
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
    """All alternatives in the order in which they are tried: spot before on-demand, then as the claim lists them."""
    by_key: dict[str, list[Requirement]] = {}
    for requirement in claim.requirements:
        by_key.setdefault(requirement.key, []).append(requirement)
    if refusal := _refusal(by_key):
        return refusal
    sizes = _allowed([r for key in INSTANCE_TYPE_KEYS for r in by_key.get(key, [])])
    if not sizes:
        return InvalidClaim(
            f"the claim names no instance type: give requirements[] an entry with key {labels.INSTANCE_TYPE}, operator In, and "
            "the Azure VM sizes to try, the preferred one first"
        )
    arch = _allowed(by_key.get(labels.ARCH, []))
    fitting = [size for size in sizes if not arch or architecture(size) in arch]
    if not fitting:
        return InvalidClaim(f"no instance type of {', '.join(sizes)} has the required architecture {', '.join(arch)}")
    zones = [zone.rpartition("-")[2] for zone in _allowed(by_key.get(labels.TOPOLOGY_ZONE, []))] or [""]
    wanted = _allowed(by_key.get(labels.CAPACITY_TYPE, [])) or [claim.labels.get(labels.CAPACITY_TYPE, ON_DEMAND)]
    capacity = [kind for kind in (SPOT, ON_DEMAND) if kind in wanted]
    if not capacity:
        return InvalidClaim(f"capacity type {', '.join(wanted)} is not offered: use {ON_DEMAND} or {SPOT}")
    return tuple(LaunchOption(size, zone, kind) for kind in capacity for size in fitting for zone in zones)


def single_valued_labels(claim: ClaimView) -> dict[str, str]:
    """Labels that the node gets from requirements with one value, except those that the cloud itself sets."""
    skipped = {*INSTANCE_TYPE_KEYS, labels.TOPOLOGY_ZONE, labels.ARCH, labels.OS, labels.CAPACITY_TYPE}
    return {
        r.key: r.values[0]
        for r in claim.requirements
        if r.operator == "In" and len(r.values) == 1 and r.key not in skipped
    }


def architecture(vm_size: str) -> str:
    """amd64, or arm64 for the sizes whose feature letters contain p (Azure's naming convention)."""
    return "arm64" if _ARM_SIZE.match(vm_size) else "amd64"


def _refusal(by_key: dict[str, list[Requirement]]) -> InvalidClaim | None:
    systems = _allowed(by_key.get(labels.OS, []))
    if systems and "linux" not in systems:
        return InvalidClaim(f"operating system {', '.join(systems)} is not offered: GPU pools run linux")
    for key, requirements in by_key.items():
        for requirement in requirements:
            decides = key in (*INSTANCE_TYPE_KEYS, labels.TOPOLOGY_ZONE, labels.CAPACITY_TYPE, labels.OS, labels.ARCH)
            if requirement.operator == "In" and (decides or len(requirement.values) == 1):
                continue
            if requirement.operator in ("NotIn", "Exists") and decides:
                continue
            if requirement.operator in ("NotIn", "DoesNotExist") and not decides:
                continue
            return InvalidClaim(
                f"requirement {key} {requirement.operator} {requirement.values} cannot be honoured by an AKS agent pool: "
                "use operator In with concrete values"
            )
    return None


def _allowed(requirements: list[Requirement]) -> list[str]:
    """Values that every In names, in the first one's order, less those that a NotIn excludes."""
    admitted = [r.values for r in requirements if r.operator == "In"]
    excluded = {value for r in requirements if r.operator == "NotIn" for value in r.values}
    if not admitted:
        return []
    return [v for v in dict.fromkeys(admitted[0]) if all(v in values for values in admitted) and v not in excluded]
