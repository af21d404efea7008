"""The user's own pod template: placed on the Workspace's nodes, otherwise left as it is."""

from __future__ import annotations

import copy
from typing import Any

from kaito_api.workspace import Workspace
from workspace_controller.inference.metadata import pod_labels
from workspace_controller.inference.placement import TOLERATIONS, affinity, node_requirements
from workspace_controller.sizing import Sizing


def user_template(workspace: Workspace, sizing: Sizing) -> dict[str, Any]:
    """Return inference.template with the Workspace's labels, node affinity and tolerations added."""
    assert workspace.inference is not None
    template = copy.deepcopy(workspace.inference.template or {})
    template["metadata"] = metadata = template.get("metadata") or {}
    metadata["labels"] = dict(sorted(((metadata.get("labels") or {}) | pod_labels(workspace)).items()))
    spec = template.setdefault("spec", {})
    spec["affinity"] = _merged_affinity(spec.get("affinity") or {}, node_requirements(workspace, sizing))
    tolerations = list(spec.get("tolerations") or [])
    spec["tolerations"] = tolerations + [toleration for toleration in TOLERATIONS if toleration not in tolerations]
    return template


def _merged_affinity(wanted: dict[str, Any], requirements: list[dict[str, Any]]) -> dict[str, Any]:
    """Add `requirements` to each of the user's alternatives: terms are or-ed, expressions within one are and-ed."""
    rule = "requiredDuringSchedulingIgnoredDuringExecution"
    node_affinity = wanted.get("nodeAffinity") or {}
    terms = (node_affinity.get(rule) or {}).get("nodeSelectorTerms")
    if not terms:
        return wanted | {"nodeAffinity": node_affinity | affinity(requirements)["nodeAffinity"]}
    narrowed = [term | {"matchExpressions": [*(term.get("matchExpressions") or []), *requirements]} for term in terms]
    return wanted | {"nodeAffinity": node_affinity | {rule: {"nodeSelectorTerms": narrowed}}}
