"""Pure: a judged Workspace to the objects of its inference workload, in the order in which they are applied."""

from __future__ import annotations

from kaito_api.workspace import Workspace
from workspace_controller.inference.access import access, registry_secrets
from workspace_controller.inference.networkpolicy import network_policy
from workspace_controller.inference.pod import pod_template
from workspace_controller.inference.registry_ca import config_map, trusting
from workspace_controller.inference.service import headless_service, service
from workspace_controller.inference.statefulset import statefulset
from workspace_controller.inference.template import user_template
from workspace_controller.inference.weights import plan_weights
from workspace_controller.inference_config import ConfigSource
from workspace_controller.manifest import Manifest
from workspace_controller.naming import pod_names
from workspace_controller.options import read_options
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing

__all__ = ["plan_inference"]


def plan_inference(
    workspace: Workspace,
    config: ConfigSource | None,
    sizing: Sizing,
    settings: Settings,
    *,
    revision: int = 0,
    registry_ca: str = "",
) -> tuple[Manifest, ...]:
    """Plan the workload of an inference Workspace that validation found good.

    In this order: ServiceAccount, Role, RoleBinding (presets), ConfigMap (where the operator gives `registry_ca`, the
    authorities of private registries, and the pod speaks to a registry), NetworkPolicy (presets on several nodes), headless
    Service (several nodes), Service, StatefulSet. All are owned by the Workspace. `revision` above 0 is written on the
    StatefulSet, outside the pod template. Nothing is planned (an empty tuple) while the GPUs of the user's nodes are not
    known: what runs stays as it is.
    """
    inference = workspace.inference
    if inference is None:
        return ()
    nodes = sizing.node_count
    group = (headless_service(workspace),) if nodes > 1 else ()
    options = read_options(workspace.metadata.annotations)
    front = service(workspace, options)
    if inference.template is not None:
        return (*group, front, statefulset(workspace, user_template(workspace, sizing), nodes, revision))
    if sizing.engine is None or sizing.preset is None:
        return ()
    weights = plan_weights(workspace, sizing.preset, settings, options)
    template = pod_template(workspace, config, sizing, settings, options, weights)
    trust: tuple[Manifest, ...] = ()
    if registry_ca and (weights.source.startswith("oci://") or sizing.lora.slots):  # adapters may come at any time
        template, trust = trusting(template, workspace), (config_map(workspace, registry_ca),)
    fence = (network_policy(workspace),) if nodes > 1 else ()
    rights = access(workspace, pod_names(workspace.metadata.name, nodes), registry_secrets(inference, weights))
    return (*rights, *trust, *fence, *group, front, statefulset(workspace, template, nodes, revision))
