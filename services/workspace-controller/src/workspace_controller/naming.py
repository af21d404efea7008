"""Names of the objects made for a Workspace: a function of its identity alone, legal for any name up to 63 characters.

A StatefulSet's name is cut to 52 characters, because its pods carry the label `controller-revision-hash` = name + a
hyphen + 10 characters, and a label value has at most 63.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

STATEFULSET_MAX: Final = 52
SERVICE_MAX: Final = 63
_DIGEST_CHARACTERS: Final = 10
_HEADLESS: Final = "-headless"


def short_hash(*parts: str, length: int = _DIGEST_CHARACTERS) -> str:
    """Return `length` lower-case base32 characters (a-z, 2-7) of the SHA-256 of `parts`, each ended by a zero byte."""
    digest = hashlib.sha256(b"".join(part.encode() + b"\0" for part in parts)).digest()
    return base64.b32encode(digest).decode().lower()[:length]


def cut_with_hash(name: str, limit: int, suffix: str = "") -> str:
    """Return `name` + `suffix` where that fits into `limit` characters, else a cut `name`, a hash of all of it, `suffix`."""
    if len(name) + len(suffix) <= limit:
        return name + suffix
    keep = limit - len(suffix) - _DIGEST_CHARACTERS - 1
    return f"{name[:keep].rstrip('-.')}-{short_hash(name)}{suffix}"


def statefulset_name(workspace: str) -> str:
    """Return the name of the StatefulSet of the Workspace of that name."""
    return cut_with_hash(workspace, STATEFULSET_MAX)


def headless_service_name(workspace: str) -> str:
    """Return the name of the headless Service under which the pods of a multi-node Workspace find each other."""
    return cut_with_hash(workspace, SERVICE_MAX, _HEADLESS)


def pod_names(workspace: str, replicas: int) -> tuple[str, ...]:
    """Return the names of the pods of the Workspace's StatefulSet, in order."""
    return tuple(f"{statefulset_name(workspace)}-{ordinal}" for ordinal in range(replicas))


def service_account_name(workspace: str) -> str:
    """Return `kaito-<hash>`: the ServiceAccount, Role and RoleBinding of the Workspace's pods."""
    return f"kaito-{short_hash(workspace)}"


def network_policy_name(workspace: str) -> str:
    """Return the name of the NetworkPolicy that closes the rendezvous port of a multi-node Workspace."""
    return f"kaito-{short_hash(workspace)}"


def registry_ca_name(workspace: str) -> str:
    """Return the name of the ConfigMap with the authorities of private registries."""
    return f"kaito-{short_hash(workspace)}-ca"


def claim_name(uid: str, slot: int, attempt: int) -> str:
    """Return the claim's name: a letter and 10 base32 characters, so also a legal AKS pool name.

    The same (UID, slot, attempt) gives the same name: a create that is repeated after a lost answer conflicts with
    itself, and cannot buy a second GPU.
    """
    return "w" + short_hash(uid, str(slot), str(attempt))
