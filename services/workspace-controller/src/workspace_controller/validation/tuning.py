"""Rules about the tuning block that need no look at data or registry."""

from __future__ import annotations

from kaito_api.workspace import TuningMethod, TuningSpec
from workspace_controller.catalog import Catalog
from workspace_controller.validation.adapters import is_image
from workspace_controller.validation.inference import preset_errors
from workspace_controller.validation.verdict import FieldError, invalid


def tuning_errors(tuning: TuningSpec, catalog: Catalog) -> list[FieldError]:
    """Judge preset, method, input and output."""
    errors: list[FieldError] = []
    if tuning.preset is None:
        errors.append(invalid("tuning.preset", "is missing: name the model to train on"))
    else:
        errors += preset_errors("tuning.preset", tuning.preset, catalog)
    if tuning.method not in tuple(TuningMethod):
        errors.append(invalid("tuning.method", f"must be lora or qlora, not {tuning.method!r}"))
    errors += _support_errors(tuning, catalog)
    source = tuning.input
    given = 0 if source is None else sum(bool(part) for part in (source.urls, source.image, source.volume_source))
    if given != 1:
        errors.append(invalid("tuning.input", f"needs exactly one of urls, image and volumeSource, has {given}"))
    output = tuning.output
    if output is None or not (output.image or output.volume_source):
        errors.append(invalid("tuning.output", "needs an image or a volumeSource for the trained adapter"))
    elif output.image:
        if not is_image(output.image):
            errors.append(
                invalid(
                    "tuning.output.image", f"{output.image!r} is not an image reference: write REGISTRY/REPOSITORY:TAG"
                )
            )
        if not output.image_push_secret:
            errors.append(
                invalid("tuning.output.imagePushSecret", "is missing: name the Secret that may push the image")
            )
    return errors


def _support_errors(tuning: TuningSpec, catalog: Catalog) -> list[FieldError]:
    preset = catalog.preset(tuning.preset.name) if tuning.preset is not None else None
    if preset is None:
        return []
    if preset.tuning is None:
        able = ", ".join(sorted(known.name for known in catalog.presets if known.tuning is not None))
        return [invalid("tuning.preset.name", f"{preset.name} cannot be tuned; these can: {able}")]
    if tuning.method in tuple(TuningMethod) and tuning.method not in preset.tuning.methods:
        methods = " or ".join(preset.tuning.methods)
        return [invalid("tuning.method", f"{preset.name} is tuned with {methods}, not {tuning.method}")]
    return []
