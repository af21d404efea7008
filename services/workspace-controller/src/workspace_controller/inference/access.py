"""The identity of the pods: ServiceAccount, Role and RoleBinding `kaito-<hash>`, as narrow as RBAC can say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kaito_api.resources import ROLEBINDINGS, ROLES, SERVICEACCOUNTS
from kaito_api.workspace import InferenceSpec, Workspace
from workspace_controller.inference.metadata import owned_metadata
from workspace_controller.inference.weights import Weights
from workspace_controller.manifest import Manifest, manifest
from workspace_controller.naming import service_account_name


def access(workspace: Workspace, pods: Sequence[str], secrets: Sequence[str]) -> tuple[Manifest, ...]:
    """Return ServiceAccount, Role and RoleBinding for the pods of `workspace`.

    `pods` are their names; none where nobody knows them beforehand (a Job's): the admission policy for reports limits each pod
    to itself all the same. `secrets` are the registry Secrets that they read.
    """
    name = service_account_name(workspace.metadata.name)
    return (
        manifest(SERVICEACCOUNTS, owned_metadata(workspace, name), automountServiceAccountToken=False),
        manifest(ROLES, owned_metadata(workspace, name), rules=_rules(workspace, pods, secrets)),
        manifest(
            ROLEBINDINGS,
            owned_metadata(workspace, name),
            roleRef={"apiGroup": ROLES.group, "kind": ROLES.kind, "name": name},
            subjects=[{"kind": SERVICEACCOUNTS.kind, "name": name, "namespace": workspace.metadata.namespace}],
        ),
    )


def registry_secrets(inference: InferenceSpec, weights: Weights) -> tuple[str, ...]:
    """Return the names of the Secrets with which weights and adapters are pulled, sorted: not those of other sources."""
    named = set(weights.pull_secrets)
    for adapter in inference.adapters:
        if adapter.source.image:
            named.update(adapter.source.image_pull_secrets)
    return tuple(sorted(named))


def _rules(workspace: Workspace, pods: Sequence[str], secrets: Sequence[str]) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = []
    if workspace.tuning is None:  # a Job is told everything when it is made; a server follows its adapters
        own = {"resourceNames": [workspace.metadata.name], "verbs": ["get", "list", "watch"]}
        rules.append({"apiGroups": ["kaito.sh"], "resources": ["workspaces"], **own})
    named = {"resourceNames": list(pods)} if pods else {}
    rules.append({"apiGroups": [""], "resources": ["pods"], **named, "verbs": ["patch"]})
    if secrets:
        rules.append({"apiGroups": [""], "resources": ["secrets"], "resourceNames": list(secrets), "verbs": ["get"]})
    return rules
