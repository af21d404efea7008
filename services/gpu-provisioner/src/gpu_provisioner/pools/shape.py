"""The shape of an agent pool: everything that cannot be changed after its creation, its name, and the body that AKS gets."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from gpu_provisioner.claims.options import SPOT, InvalidClaim, LaunchOption, single_valued_labels
from gpu_provisioner.claims.view import ClaimView, owned_by_kaito
from kaito_api import labels, quantity

OWNER_TAG = "kaito-managed-by"
OWNER_TAG_VALUE = "gpu-provisioner"
MAX_DISK_GIB = 2048
_POOL_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
_OS_SKUS = {"ubuntu": "Ubuntu", "azurelinux": "AzureLinux"}

# The claim gets these from its node once it has one: they must not change the shape of a pool that exists.
_SET_BY_THE_CLOUD = frozenset(
    {
        labels.INSTANCE_TYPE,
        labels.TOPOLOGY_ZONE,
        labels.TOPOLOGY_REGION,
        labels.OS,
        labels.ARCH,
        labels.CREATION_TIMESTAMP,
    }
)


class PoolShape(msgspec.Struct, frozen=True):
    """Two claims with equal shapes may share a pool. `disk_gib` 0 leaves the size to AKS."""

    owner: str
    option: LaunchOption
    os_sku: str
    disk_gib: int
    taints: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]


def pool_shape(claim: ClaimView, option: LaunchOption) -> PoolShape | InvalidClaim:
    """The shape that satisfies the claim with this alternative of its requirements."""
    family = claim.annotations.get(labels.NODE_IMAGE_FAMILY, "ubuntu").lower()
    if family not in _OS_SKUS:
        return InvalidClaim(f"annotation {labels.NODE_IMAGE_FAMILY}={family!r} is unknown: use {' or '.join(_OS_SKUS)}")
    try:
        storage = quantity.parse(claim.requests.get("storage", "0"))
    except ValueError as error:
        return InvalidClaim(f"resources.requests.storage is not a quantity: {error}")
    disk = math.ceil(storage / 2**30)
    if disk > MAX_DISK_GIB:
        return InvalidClaim(
            f"resources.requests.storage asks for {disk} GiB; an AKS OS disk has at most {MAX_DISK_GIB} GiB"
        )
    asked = {key: value for key, value in claim.labels.items() if key not in _SET_BY_THE_CLOUD}
    node_labels = {
        labels.NODEPOOL: labels.NODEPOOL_KAITO,
        **single_valued_labels(claim),
        **asked,
        labels.MACHINE_TYPE: "gpu" if option.vm_size.lower().startswith("standard_n") else "cpu",
        labels.CAPACITY_TYPE: option.capacity_type,
    }
    return PoolShape(
        owner=claim.owner,
        option=option,
        os_sku=_OS_SKUS[family],
        disk_gib=disk,
        taints=tuple(f"{t.key}={t.value}:{t.effect}" for t in claim.taints),
        labels=tuple(sorted(node_labels.items())),
    )


def pool_name(claim: ClaimView, shape: PoolShape, *, shared: bool) -> str | InvalidClaim:
    """Name of the pool: the claim's own name when every claim has its pool, else `k` and a hash of the whole shape."""
    if not shared or labels.WORKSPACE_UID not in claim.annotations:
        if not _POOL_NAME.fullmatch(claim.name):
            return InvalidClaim(
                f"{claim.name!r} cannot name an agent pool: create the claim anew with a name of a lower-case letter and at most "
                "11 more letters or digits"
            )
        return claim.name
    digest = hashlib.sha256(msgspec.json.encode(shape)).digest()
    return "k" + base64.b32encode(digest).decode().lower()[:10]


def pool_body(shape: PoolShape, count: int) -> dict[str, Any]:
    """The properties of PUT agentPools (Microsoft.ContainerService) for `count` machines of this shape."""
    properties: dict[str, Any] = {
        "type": "VirtualMachineScaleSets",
        "mode": "User",
        "count": count,
        "vmSize": shape.option.vm_size,
        "osType": "Linux",
        "osSKU": shape.os_sku,
        "enableAutoScaling": False,
        "nodeLabels": dict(shape.labels),
        "nodeTaints": list(shape.taints),
        "tags": {OWNER_TAG: OWNER_TAG_VALUE},
    }
    if shape.disk_gib:
        properties["osDiskSizeGB"] = shape.disk_gib
    if shape.option.zone:
        properties["availabilityZones"] = [shape.option.zone]
    if shape.option.capacity_type == SPOT:
        properties |= {"scaleSetPriority": "Spot", "scaleSetEvictionPolicy": "Delete", "spotMaxPrice": -1}
    return {"properties": properties}


def owned_pool(tags: Mapping[str, str], node_labels: Mapping[str, str]) -> bool:
    """Whether a pool is ours: our tag, or the two labels by which KAITO's gpu-provisioner marked its pools."""
    return tags.get(OWNER_TAG) == OWNER_TAG_VALUE or (
        owned_by_kaito(dict(node_labels)) and labels.NODEPOOL in node_labels
    )
