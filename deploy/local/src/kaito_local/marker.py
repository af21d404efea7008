"""The marker that says a cluster is ours: nodes are patched, drained and deleted only where it stands."""

from pathlib import Path

from kaito_local.errors import LocalError
from kaito_local.kubectl import Kubectl

NAME = "kaito-local"
NAMESPACE = "kube-system"
SYSTEM_POOL = "system"
"""The pool of the operator's own node."""


async def place(kubectl: Kubectl, state_dir: Path) -> None:
    """Marks a cluster that we made ourselves just now."""
    await kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": {"madeBy": "kaito-local", "stateDir": str(state_dir)},
        }
    )


async def is_ours(kubectl: Kubectl) -> bool:
    """Whether the marker stands in that cluster."""
    found = await kubectl("get", "configmap", NAME, "-n", NAMESPACE, "--ignore-not-found", "-o", "name")
    return bool(found.strip())


async def require_ours(kubectl: Kubectl) -> None:
    """Raises LocalError where the marker is missing."""
    if not await is_ours(kubectl):
        raise LocalError(
            f"this cluster was not made by kaito-local (no ConfigMap {NAMESPACE}/{NAME}): its nodes are not touched."
            " Bring the GPU nodes yourself, with the labels of the Workspace's labelSelector."
        )
