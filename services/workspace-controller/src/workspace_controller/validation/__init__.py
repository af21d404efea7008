"""One pure judgement of a Workspace, the same for the admission webhook and for the controller."""

from __future__ import annotations

from collections.abc import Sequence

from kaito_api.core import Node
from kaito_api.workspace import Workspace
from workspace_controller.catalog import Catalog
from workspace_controller.inference_config import ConfigSource, InferenceConfig
from workspace_controller.options import Options, read_options
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing
from workspace_controller.validation.config import judge_config
from workspace_controller.validation.fit import UNCHECKED, size
from workspace_controller.validation.identity import identity_errors
from workspace_controller.validation.inference import inference_errors, preset_warnings
from workspace_controller.validation.resource import resource_errors, resource_warnings
from workspace_controller.validation.training_config import judge_training_config
from workspace_controller.validation.tuning import tuning_errors
from workspace_controller.validation.verdict import FieldError, Verdict, invalid

__all__ = ["FieldError", "Verdict", "validate"]


def validate(
    workspace: Workspace,
    catalog: Catalog,
    settings: Settings,
    *,
    config: ConfigSource | None = None,
    nodes: Sequence[Node] | None = None,
) -> Verdict:
    """Judge `workspace`.

    `config` is the ConfigMap named by inference.config or tuning.config as it was observed, `nodes` are all nodes of the
    cluster. None means "not looked at": what depends on it is not judged (the webhook makes no network call).
    """
    options = read_options(workspace.metadata.annotations)
    errors = identity_errors(workspace) + resource_errors(workspace, catalog, options)
    errors += [invalid(f"metadata.annotations[{key}]", message) for key, message in options.problems]
    warnings = _warnings(workspace, catalog, options)
    parsed = InferenceConfig()
    if workspace.tuning is not None:
        tuning = workspace.tuning
        errors += tuning_errors(tuning, catalog, settings, options)
        errors += judge_training_config(tuning.config, config, tuning.method)
    if workspace.inference is not None:
        inference = workspace.inference
        errors += inference_errors(inference, catalog, settings, options)
        preset = catalog.preset(inference.preset.name) if inference.preset is not None else None
        parsed, found = judge_config(inference.config, config, preset)
        errors += found
        warnings += parsed.warnings
    if errors:
        return Verdict(errors=tuple(errors), warnings=tuple(warnings))
    sizing = size(workspace, catalog, settings, options, parsed, nodes)
    if not isinstance(sizing, Sizing):
        return Verdict(errors=(sizing,), warnings=tuple(warnings))
    return Verdict(warnings=tuple(warnings), sizing=sizing)


def _warnings(workspace: Workspace, catalog: Catalog, options: Options) -> list[str]:
    warnings = resource_warnings(workspace)
    if workspace.inference is not None:
        warnings += preset_warnings("inference.preset", workspace.inference.preset)
    if workspace.tuning is not None:
        warnings += preset_warnings("tuning.preset", workspace.tuning.preset)
    resource = workspace.resource
    if (
        resource is not None
        and resource.instance_type
        and options.bypass_checks
        and not catalog.sku(resource.instance_type)
    ):
        warnings.append(UNCHECKED)
    return warnings
