"""The observed ConfigMap of inference.config, judged field by field."""

from __future__ import annotations

from kaito_api.conditions import Reason
from kaito_api.suggestions import did_you_mean
from workspace_controller.inference_config import CONFIG_KEY, ConfigSource, InferenceConfig, parse_config
from workspace_controller.presets import Preset
from workspace_controller.validation.verdict import FieldError

_PATH = "inference.config"


def judge_config(
    name: str, source: ConfigSource | None, preset: Preset | None
) -> tuple[InferenceConfig, list[FieldError]]:
    """Return what the configuration says, and what is wrong with it. `source` None means that nobody looked."""
    empty = InferenceConfig()
    if not name or source is None:
        return empty, []
    if not source.found:
        message = f"ConfigMap {name!r} does not exist in this namespace: create it with the key {CONFIG_KEY}"
        return empty, [FieldError(path=_PATH, reason=Reason.CONFIG_MAP_NOT_FOUND, message=message)]
    text = source.data.get(CONFIG_KEY)
    if text is None:
        keys = ", ".join(sorted(source.data)) or "none"
        message = (
            f"ConfigMap {name!r} lacks the key {CONFIG_KEY}{did_you_mean(CONFIG_KEY, source.data)}; its keys: {keys}"
        )
        return empty, [_error(message)]
    parsed = parse_config(text)
    if not isinstance(parsed, InferenceConfig):
        return empty, [
            _error(f"ConfigMap {name!r}, {CONFIG_KEY}: {p.path} {p.message}".replace(":  ", ": ")) for p in parsed
        ]
    if preset is not None and parsed.max_model_len is not None and parsed.max_model_len > preset.context_length:
        message = (
            f"ConfigMap {name!r}, {CONFIG_KEY}: vllm.max-model-len {parsed.max_model_len} is more than the "
            f"{preset.context_length} tokens of {preset.name}"
        )
        return empty, [_error(message)]
    return parsed, []


def _error(message: str) -> FieldError:
    return FieldError(path=_PATH, reason=Reason.CONFIG_INVALID, message=message)
