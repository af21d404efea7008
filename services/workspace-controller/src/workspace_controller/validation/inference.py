"""Rules about the inference block: preset or template, adapters, and the annotations that concern them."""

from __future__ import annotations

from kaito_api import labels
from kaito_api.conditions import Reason
from kaito_api.suggestions import did_you_mean
from kaito_api.workspace import AccessMode, InferenceSpec, PresetSpec
from workspace_controller.catalog import Catalog
from workspace_controller.options import WEIGHTS_CLAIM, Options
from workspace_controller.settings import Settings
from workspace_controller.validation.adapters import adapter_errors, is_image, no_image
from workspace_controller.validation.template import shape_errors
from workspace_controller.validation.verdict import FieldError, invalid


def inference_errors(
    inference: InferenceSpec, catalog: Catalog, settings: Settings, options: Options
) -> list[FieldError]:
    """Judge preset, template and adapters."""
    if inference.preset is not None and inference.template is not None:
        return [invalid("inference.preset", "preset and template are both set: keep one")]
    if inference.preset is None and inference.template is None:
        return [
            invalid(
                "inference.preset",
                "neither preset nor template is set: set inference.preset.name, for example "
                + catalog.preset_names()[0],
            )
        ]
    if inference.template is not None:
        return _template_errors(inference, settings, options)
    assert inference.preset is not None
    errors = preset_errors("inference.preset", inference.preset, catalog)
    if options.local_weights and not settings.allow_host_path:
        errors.append(
            invalid(
                "metadata.annotations[kaito.sh/use-local-weights]",
                f"weights from the node's disk are switched off on this cluster: remove it, or use {WEIGHTS_CLAIM}",
            )
        )
    preset = catalog.preset(inference.preset.name)
    if inference.adapters and preset is not None and not (preset.lora and options.lora):
        why = "the annotation kaito.sh/lora is disabled" if preset.lora else f"{preset.name} does not support LoRA"
        errors.append(
            FieldError(
                path="inference.adapters",
                reason=Reason.ADAPTERS_UNSUPPORTED,
                message=f"cannot be served, because {why}: remove one of the two",
            )
        )
    served = preset.name if preset is not None else ""
    return errors + adapter_errors(inference.adapters, served, strong=options.strong_adapters)


def preset_errors(path: str, wanted: PresetSpec, catalog: Catalog) -> list[FieldError]:
    """Judge the name of a preset, and the image that its weights shall come from."""
    image = wanted.preset_options.image
    errors = [] if not image or is_image(image) else [invalid(f"{path}.presetOptions.image", no_image(image))]
    if catalog.preset(wanted.name) is not None:
        return errors
    names = catalog.preset_names()
    known = {name for preset in catalog.presets for name in preset.names}
    message = (
        f"{wanted.name!r} is not in the catalog{did_you_mean(wanted.name, known)}; known presets: {', '.join(names)}"
    )
    return [FieldError(path=f"{path}.name", reason=Reason.PRESET_UNKNOWN, message=message), *errors]


def preset_warnings(path: str, preset: PresetSpec | None) -> list[str]:
    """Return what is deprecated in a preset."""
    if preset is None:
        return []
    warnings = []
    if preset.access_mode != AccessMode.PUBLIC:
        warnings.append(f"{path}.accessMode is deprecated: presetOptions.image alone says where private weights are")
    if preset.preset_options.image:
        warnings.append(
            f"{path}.presetOptions.image is deprecated: weights are pulled from there instead of the catalog's image"
        )
    return warnings


def _template_errors(inference: InferenceSpec, settings: Settings, options: Options) -> list[FieldError]:
    errors = []
    if not settings.allow_template:
        errors.append(
            invalid("inference.template", "pod templates are switched off on this cluster: use inference.preset")
        )
    errors += shape_errors(inference.template or {})
    if inference.adapters:
        errors.append(
            invalid("inference.adapters", "work with presets only: remove them, or load them in your own container")
        )
    if inference.config:
        errors.append(invalid("inference.config", "works with presets only: mount the ConfigMap in the template"))
    if options.api_key_secret:
        path = f"metadata.annotations[{labels.API_KEY_SECRET}]"
        errors.append(invalid(path, "works with presets only: remove it, and let your own container ask for the keys"))
    return errors
