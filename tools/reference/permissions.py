"""What each ServiceAccount may do and why, from the lists that the chart makes its roles from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kaito_api.meta import ObjectMeta
from kaito_api.workspace import Workspace
from reference.table import code, table
from workspace_controller.inference.access import access

HEAD = ("On", "In", "May", "Why")
CONDITIONS = {
    "claimApi": "with `settings.claimApi: {}`",
    "webhook": "with `webhook.certificates: {}`",
}
WORKLOAD_WHY = {
    "workspaces": "its own Workspace, by name: which adapters to serve; list and watch with a field selector",
    "pods": "its own pods, by name: reports, as annotations; the policy kaito-workload-reports refuses all else",
    "secrets": "the registry Secrets that the Workspace names, and no other",
}


def page(charts: Path) -> str:
    """Return the page; `charts` is the folder of the sub-charts."""
    parts = [
        "# Who may do what\n",
        "`tests/security` runs every service on a real apiserver under exactly these rights, and fails for one that is "
        "missing and for one that nothing uses. No service may read Secrets but a workload's pods, and those only by name.\n",
    ]
    for service in ("workspace-controller", "gpu-provisioner"):
        entries = yaml.safe_load((charts / service / "permissions.yaml").read_text())
        parts += [f"## {service}\n", table(HEAD, [_row(entry) for entry in entries])]
    parts += ["## The pods of a Workspace (`kaito-<hash>`)\n", table(HEAD, _workload())]
    return "\n".join(parts)


def _row(entry: dict[str, Any]) -> tuple[str, str, str, str]:
    where = "the cluster" if entry["scope"] == "cluster" else "the release's namespace"
    conditions = [words.format(entry[key]) for key, words in CONDITIONS.items() if key in entry]
    return _resources(entry), "; ".join([where, *conditions]), ", ".join(entry["verbs"]), entry["why"]


def _resources(rule: dict[str, Any]) -> str:
    group = rule["apiGroups"][0]
    names = f" {', '.join(code(name) for name in rule['resourceNames'])}" if "resourceNames" in rule else ""
    return ", ".join(code(f"{each}.{group}" if group else each) for each in rule["resources"]) + names


def _workload() -> list[tuple[str, str, str, str]]:
    """The rules that the controller writes for a Workspace named `phi` that pulls with the Secret `pull`."""
    workspace = Workspace(metadata=ObjectMeta(name="phi", namespace="team", uid="u"))
    role = next(m for m in access(workspace, ("phi-0",), ("pull",)) if m.resource.kind == "Role")
    rows = []
    for rule in role.body["rules"]:
        (resource,) = rule["resources"]
        rows.append((_resources(rule), "the Workspace's namespace", ", ".join(rule["verbs"]), WORKLOAD_WHY[resource]))
    return rows
