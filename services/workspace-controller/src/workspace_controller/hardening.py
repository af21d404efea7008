"""What every container of ours has in common: the restricted Pod Security Standard, and where it stands."""

from __future__ import annotations

from typing import Any, Final

USER: Final = 1000
CONTAINER_SECURITY: Final = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
POD_SECURITY: Final = {
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "runAsGroup": USER,
    "runAsNonRoot": True,
    "runAsUser": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
TMP_MOUNT: Final = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 - an emptyDir of this pod alone


def base_env() -> list[dict[str, Any]]:
    """Return the variables that each container has: its pod's identity, and writable folders."""
    return [
        {"name": "HOME", "value": "/tmp/home"},  # noqa: S108 - an emptyDir of this pod alone
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "TMPDIR", "value": "/tmp"},  # noqa: S108 - an emptyDir of this pod alone
    ]
