"""Rules about the tuning block that need no look at data or registry."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlsplit

from kaito_api import labels
from kaito_api.workspace import DataDestination, DataSource, TuningMethod, TuningSpec
from workspace_controller.catalog import Catalog
from workspace_controller.options import Options
from workspace_controller.settings import Settings
from workspace_controller.tuning.checkpoints import checkpoint_tag
from workspace_controller.validation.adapters import is_image, no_image
from workspace_controller.validation.inference import preset_errors
from workspace_controller.validation.verdict import FieldError, invalid

_PORTS: Final = {"https": 443, "http": 80}
_PIN: Final = re.compile(r"sha256=[0-9a-fA-F]{64}")


def tuning_errors(tuning: TuningSpec, catalog: Catalog, settings: Settings, options: Options) -> list[FieldError]:
    """Judge preset, method, input and output."""
    errors: list[FieldError] = []
    if tuning.preset is None:
        errors.append(invalid("tuning.preset", "is missing: name the model to train on"))
    else:
        errors += preset_errors("tuning.preset", tuning.preset, catalog)
    if tuning.method not in tuple(TuningMethod):
        errors.append(invalid("tuning.method", f"must be lora or qlora, not {tuning.method!r}"))
    errors += _support_errors(tuning, catalog)
    if options.signing_key_secret and tuning.output is not None and not tuning.output.image:
        path = f"metadata.annotations[{labels.SIGNING_KEY_SECRET}]"
        errors.append(invalid(path, "signs an image, and the output is none: name a tuning.output.image, or remove it"))
    return errors + _input_errors(tuning.input, settings) + _output_errors(tuning.output, settings)


def _input_errors(source: DataSource | None, settings: Settings) -> list[FieldError]:
    given = 0 if source is None else sum(bool(part) for part in (source.urls, source.image, source.volume_source))
    if source is None or given != 1:
        return [invalid("tuning.input", f"needs exactly one of urls, image and volumeSource, has {given}")]
    errors = [
        invalid(f"tuning.input.urls[{index}]", problem)
        for index, url in enumerate(source.urls)
        if (problem := _url_problem(url, settings))
    ]
    if source.image and not is_image(source.image):
        errors.append(invalid("tuning.input.image", no_image(source.image)))
    return errors + _volume_errors("tuning.input.volumeSource", source.volume_source, settings)


def _url_problem(url: str, settings: Settings) -> str:
    """Return what is wrong with a URL as it is written, "" for nothing; the tuner judges the address that it leads to."""
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        return f"{url[:200]!r} is not a URL: {error}"
    shown = f"{parts.scheme}://{host}{parts.path}"[:200]
    if parts.scheme not in _PORTS or not host:
        return f"{shown!r} is not a web address: write https://HOST/PATH"
    if parts.username is not None or parts.password is not None:
        return f"the URL of {host} holds a user name: credentials do not belong into a Workspace"
    allowed = f"{host}:{port or _PORTS[parts.scheme]}" in settings.tuning.data_hosts
    if parts.scheme == "http" and not allowed and not settings.tuning.data_plain_http:
        return f"{shown} is not encrypted: write https://, or let the operator allow the host (--data-hosts)"
    if parts.fragment and not _PIN.fullmatch(parts.fragment):
        return f"#{parts.fragment[:80]} is not a pin: write #sha256= and 64 hexadecimal digits"
    return ""


def _output_errors(output: DataDestination | None, settings: Settings) -> list[FieldError]:
    if output is None or not (output.image or output.volume_source):
        return [invalid("tuning.output", "needs an image or a volumeSource for the trained adapter")]
    errors = _volume_errors("tuning.output.volumeSource", output.volume_source, settings)
    if not output.image:
        return errors
    if not is_image(output.image):
        errors.append(invalid("tuning.output.image", no_image(output.image)))
    elif "@" in output.image:
        errors.append(invalid("tuning.output.image", "names a digest, which nobody knows before the push: name a tag"))
    elif (
        settings.tuning.registry_checkpoints
        and not output.volume_source
        and checkpoint_tag(output.image) == output.image
    ):
        problem = "has a tag of the greatest length that is also that of its checkpoints: shorten it"
        errors.append(invalid("tuning.output.image", problem))
    if not output.image_push_secret:
        errors.append(invalid("tuning.output.imagePushSecret", "is missing: name the Secret that may push the image"))
    return errors


def _volume_errors(path: str, volume: dict[str, Any] | None, settings: Settings) -> list[FieldError]:
    if volume and "hostPath" in volume and not settings.allow_host_path:
        return [invalid(path, "reads the node's own disk, which is switched off on this cluster: use another volume")]
    return []


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
