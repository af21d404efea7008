"""Pure: whether a pod waits for the Secret with the API keys, as far as that shows without a right to read Secrets.

Kubelet says in no field of the pod why its volumes are not mounted; it only leaves the condition PodReadyToStartContainers at
False (Kubernetes 1.29). A Secret that exists is mounted within a moment, so what lasts is told as the missing Secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from kaito_api import labels
from kaito_api.conditions import Reason
from kaito_api.core import Pod
from kaito_api.workspace import Workspace
from workspace_controller.failures import cut
from workspace_controller.options import read_options
from workspace_controller.status.finding import Finding
from workspace_controller.status.wait import Wait

GRACE: Final = timedelta(seconds=20)
"""Mounting takes well under a second, making the pod's network a few."""


class KeyWait(Wait, frozen=True, kw_only=True):
    """A pod whose volumes are not mounted."""

    pod: str
    secret: str
    namespace: str

    def finding(self) -> Finding:
        """Return what InferenceReady says."""
        text = (
            f"Pod {self.pod} waits for its volumes: does the Secret {self.secret} exist, which {labels.API_KEY_SECRET} names? "
            f"kubectl -n {self.namespace} create secret generic {self.secret} --from-literal=key-1=..."
        )
        return Finding(ok=False, reason=Reason.API_KEYS_MISSING, message=cut(text))


def key_wait(workspace: Workspace, pods: Sequence[Pod]) -> KeyWait | None:
    """Return the pod that waits for its volumes, where the API keys are among them."""
    secret = read_options(workspace.metadata.annotations).api_key_secret
    if not secret or workspace.inference is None or workspace.inference.preset is None:
        return None
    waits = [
        KeyWait(pod=pod.metadata.name, secret=secret, namespace=pod.metadata.namespace, grace_ends=began + GRACE)
        for pod in pods
        if not pod.metadata.deleting and not pod.finished and (began := _unmounted_since(pod)) is not None
    ]
    return min(waits, key=lambda wait: (wait.grace_ends, wait.pod), default=None)


def _unmounted_since(pod: Pod) -> datetime | None:
    scheduled, mounted = pod.condition("PodScheduled"), pod.condition("PodReadyToStartContainers")
    if scheduled is None or scheduled.status != "True" or mounted is None or mounted.status != "False":
        return None
    return mounted.last_transition_time
