"""The Workspace that the controller's benchmarks create: KAITO's Phi-3 example under another name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_SHIPPED = _ROOT / "presets"
CATALOG = _SHIPPED if (_SHIPPED / "models").is_dir() else _ROOT / "services/workspace-controller/tests/catalog"


def workspace_body(name: str, namespace: str) -> dict[str, Any]:
    """Return the manifest."""
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": name, "namespace": namespace},
        "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "phi-3"}}},
        "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
    }
