"""What each ServiceAccount may do and why, from the lists that the chart makes its roles from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from kaito_api.meta import ObjectMeta
from kaito_api.workspace import InferenceSpec, TuningSpec, Workspace
from reference.table import code, table
from workspace_controller.inference.access import access
from workspace_controller.manifest import Manifest

HEAD = ("On", "In", "May", "Why")
CONDITIONS = {
    "claimApi": "with `settings.claimApi: {}`",
    "webhook": "with `webhook.certificates: {}`",
    "registryCA": "with `global.registryCA.configMap`",
}
UNINSTALL = "uninstall"
UNINSTALL_WORDS = (
    "Of the check before `helm uninstall`; they exist only while it runs, and `tests/chart` runs it under them.\n"
)
SERVING_WHY = {
    "workspaces": "its own Workspace, by name: which adapters to serve; get looks at them before the engine starts, list and "
    "watch, with a field selector, follow them",
    "pods": "its own pods, by name: reports, as annotations; the policy kaito-workload-reports refuses all else",
    "secrets": "the Secrets that the Workspace names to pull weights and adapters, and no other",
}
TUNING_WHY = {
    "pods": "reports, as annotations; nobody knows the names of a Job's pods beforehand, the policy kaito-workload-reports "
    "limits each to itself",
    "secrets": "the Secrets that the Workspace names to pull weights and data; the push Secret, while checkpoints are kept in "
    "the registry",
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
        own = [entry for entry in entries if entry["scope"] != UNINSTALL]
        parts += [f"## {service}\n", table(HEAD, [_row(entry) for entry in own])]
        if len(own) < len(entries):
            check = [_row(entry) for entry in entries if entry["scope"] == UNINSTALL]
            parts += [f"## {service}-uninstall\n", UNINSTALL_WORDS, table(HEAD, check)]
    serving = access(Workspace(metadata=_meta("phi"), inference=InferenceSpec()), ("phi-0",), ("pull",))
    parts += ["## The pods of an inference Workspace (`kaito-<hash>`)\n", table(HEAD, _workload(serving, SERVING_WHY))]
    tuning = access(Workspace(metadata=_meta("tuned"), tuning=TuningSpec()), (), ("pull", "push"))
    parts += ["## The pods of a tuning Workspace (`kaito-<hash>`)\n", table(HEAD, _workload(tuning, TUNING_WHY))]
    return "\n".join(parts)


def _row(entry: dict[str, Any]) -> tuple[str, str, str, str]:
    where = "the release's namespace" if entry["scope"] == "release" else "the cluster"
    conditions = [words.format(entry[key]) for key, words in CONDITIONS.items() if key in entry]
    return _resources(entry), "; ".join([where, *conditions]), ", ".join(entry["verbs"]), entry["why"]


def _resources(rule: dict[str, Any]) -> str:
    group = rule["apiGroups"][0]
    names = f" {', '.join(code(name) for name in rule['resourceNames'])}" if "resourceNames" in rule else ""
    return ", ".join(code(f"{each}.{group}" if group else each) for each in rule["resources"]) + names


def _meta(name: str) -> ObjectMeta:
    return ObjectMeta(name=name, namespace="team", uid="u")


def _workload(written: Iterable[Manifest], why: dict[str, str]) -> list[tuple[str, str, str, str]]:
    """The rules of the Role among what the controller writes."""
    role = next(manifest for manifest in written if manifest.resource.kind == "Role")
    rows = []
    for rule in role.body["rules"]:
        (resource,) = rule["resources"]
        rows.append((_resources(rule), "the Workspace's namespace", ", ".join(rule["verbs"]), why[resource]))
    return rows
