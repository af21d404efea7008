"""Pure: whether a pod template that changed makes new pods at once.

What the user changed does: spec, configuration, annotations. What the operator changed (another release of the controller,
its catalog, a setting, an engine image) takes effect when a pod is next made, or when the user allows the restart. So
upgrading or rolling back the operator interrupts nobody's model. The StatefulSet's own strategy OnDelete does the waiting.
Pods that fail before they ever ran are made anew at once: the change may be what they need.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from kaito_api import labels
from kaito_api.core import StatefulSet
from kaito_api.workspace import Workspace
from workspace_controller.adapter_plan import AdapterPlan
from workspace_controller.inference_config import ConfigSource
from workspace_controller.manifest import Manifest
from workspace_controller.options import Options

ON_DELETE: Final = "OnDelete"
_HASH_DIGITS: Final = 16
_ANNOTATED: Final = (
    "performance_mode",
    "local_weights",
    "weights_from",
    "weights_claim",
    "api_key_secret",
    "lora",
    "bypass_checks",
)
"""The options whose change makes another pod template."""


def asked_of(workspace: Workspace, config: ConfigSource | None, options: Options, adapters: AdapterPlan) -> str:
    """Return the hash of everything with which the user decides about the pod template.

    Of the adapters that is what `adapters` says: the others come and go while the engine runs.
    """
    inference = workspace.inference
    asked: dict[str, Any] = {
        "resource": workspace.resource,
        "inference": inference and msgspec.structs.replace(inference, adapters=[]),
        "config": config.digest if config is not None else "",
        "options": [getattr(options, name) for name in _ANNOTATED],
        "adapters": adapters,
    }
    return _digest(msgspec.to_builtins(asked))


def with_rollout(manifest: Manifest, found: StatefulSet | None, asked: str, *, allowed: bool) -> Manifest:
    """Return the StatefulSet `manifest` with its update strategy; `found` is what stands, `asked` from `asked_of`.

    Once it waits it does so until the user changes what they ask for or `allowed` says that the pods may restart. One that
    does not say what was asked was made by a release that did not wait, and is rolled.
    """
    spec, metadata = manifest.body["spec"], manifest.body["metadata"]
    template = _digest(spec["template"])
    notes = {labels.ASKED_HASH: asked, labels.TEMPLATE_HASH: template}
    waits = not allowed and _waits(found, asked, template)
    # An apply takes away only what it made itself: the apiserver's default for the other strategy has to be named.
    strategy = {"type": ON_DELETE, "rollingUpdate": None} if waits else {"type": "RollingUpdate"}
    body = {
        **manifest.body,
        "metadata": {**metadata, "annotations": {**metadata.get("annotations", {}), **notes}},
        "spec": {**spec, "updateStrategy": strategy},
    }
    return Manifest(resource=manifest.resource, body=body)


def pending(found: StatefulSet) -> bool:
    """Whether pods of `found` run an earlier template than it has, and wait to be made anew."""
    status = found.status
    return (
        found.spec.update_strategy.type == ON_DELETE
        and status.observed_generation >= found.metadata.generation
        and status.current_revision != status.update_revision
        and status.updated_replicas < status.replicas
    )


def _waits(found: StatefulSet | None, asked: str, template: str) -> bool:
    if found is None or found.metadata.annotations.get(labels.ASKED_HASH) != asked:
        return False
    if found.metadata.annotations.get(labels.TEMPLATE_HASH) != template:
        return True
    return found.spec.update_strategy.type == ON_DELETE


def _digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:_HASH_DIGITS]
