"""Pure: a judged tuning Workspace to the objects of its Job, in the order in which they are made."""

from __future__ import annotations

from kaito_api.workspace import Workspace
from workspace_controller.inference.access import access
from workspace_controller.inference.registry_ca import config_map, trusting
from workspace_controller.inference.weights import plan_weights
from workspace_controller.inference_config import ConfigSource
from workspace_controller.manifest import Manifest
from workspace_controller.options import read_options
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing
from workspace_controller.tuning.job import job
from workspace_controller.tuning.pod import brings_image, pod_template, pushes, readable_secrets

__all__ = ["plan_tuning"]


def plan_tuning(
    workspace: Workspace,
    config: ConfigSource | None,
    sizing: Sizing,
    settings: Settings,
    *,
    run: str,
    revision: int = 0,
    registry_ca: str = "",
) -> tuple[Manifest, ...]:
    """Plan the workload of a tuning Workspace that validation found good: ServiceAccount, Role, RoleBinding, Job.

    Before the Job comes a ConfigMap where the operator gives `registry_ca`, the authorities of private registries, and the pod
    speaks to a registry.

    `run` is the request that the Job is for (tuning/run.py). Nothing is planned (an empty tuple) while the GPUs of the
    user's nodes are not known.
    """
    if workspace.tuning is None or sizing.engine is None or sizing.preset is None:
        return ()
    options = read_options(workspace.metadata.annotations)
    weights = plan_weights(workspace, sizing.preset, settings, options)
    # The revision too: a request that is made again after another one may find other data behind its URLs.
    name = f"{workspace.metadata.uid}/{run}.{revision}"
    template = pod_template(workspace, config, sizing, settings, options, weights, run=name)
    trust: tuple[Manifest, ...] = ()
    if registry_ca and (weights.source.startswith("oci://") or brings_image(workspace) or pushes(workspace)):
        template, trust = trusting(template, workspace), (config_map(workspace, registry_ca),)
    secrets = readable_secrets(workspace, weights, settings, options)
    return (*access(workspace, (), secrets), *trust, job(workspace, template, run=run, revision=revision))
