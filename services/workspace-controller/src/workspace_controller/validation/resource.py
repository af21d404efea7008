"""Rules about the resource block: selector, instance type, partition, and what of it is deprecated."""

from __future__ import annotations

from kaito_api import labels
from kaito_api.conditions import Reason
from kaito_api.suggestions import did_you_mean
from kaito_api.workspace import Workspace
from workspace_controller.catalog import Catalog
from workspace_controller.options import Options
from workspace_controller.selector import SelectorError, node_labels, plain_labels
from workspace_controller.validation.verdict import FieldError, invalid


def resource_errors(workspace: Workspace, catalog: Catalog, options: Options) -> list[FieldError]:
    """Judge resource.labelSelector, .instanceType and .partition."""
    if workspace.resource is None:
        return []
    errors = _selector_errors(workspace)
    if workspace.resource.partition is not None:
        errors.append(
            invalid("resource.partition", "is not supported yet: remove it, every pod gets all GPUs of its node")
        )
    name = workspace.resource.instance_type
    if name and catalog.sku(name) is None and not options.bypass_checks:
        errors.append(
            FieldError(
                path="resource.instanceType",
                reason=Reason.INSTANCE_TYPE_UNKNOWN,
                message=f"{name!r} is not in the catalog of GPU machines{did_you_mean(name, catalog.sku_names())}; use one of "
                f"{', '.join(catalog.sku_names())}, or add the annotation {labels.BYPASS_RESOURCE_CHECKS} to try it unchecked",
            )
        )
    return errors


def resource_warnings(workspace: Workspace) -> list[str]:
    """Return what is deprecated or without effect in the resource block."""
    resource = workspace.resource
    if resource is None:
        return []
    warnings = []
    if resource.preferred_nodes:
        warnings.append(
            "resource.preferredNodes is deprecated and has no effect: select nodes by resource.labelSelector"
        )
    if resource.count != 1 and workspace.inference is not None and workspace.inference.preset is not None:
        warnings.append(
            "resource.count is deprecated for presets: the number of nodes follows from the model and the GPUs"
        )
    used = {*resource.label_selector.match_labels, *(e.key for e in resource.label_selector.match_expressions)}
    stripped = sorted(used & labels.RESERVED_SELECTOR_KEYS)
    if stripped:
        warnings.append(f"resource.labelSelector: {', '.join(stripped)} is reserved and ignored")
    return warnings


def _selector_errors(workspace: Workspace) -> list[FieldError]:
    resource = workspace.resource
    assert resource is not None
    try:
        plain, kept = plain_labels(resource.label_selector), node_labels(workspace)
    except SelectorError as error:
        return [_selector_error(str(error))]
    if plain and not kept:
        return [_selector_error(f"names only reserved keys ({', '.join(plain)}): add a label of your own")]
    if not kept and not resource.instance_type:
        return [
            _selector_error("is empty, and without resource.instanceType it would take every node: add matchLabels")
        ]
    return []


def _selector_error(message: str) -> FieldError:
    return FieldError(path="resource.labelSelector", reason=Reason.SELECTOR_INVALID, message=message)
