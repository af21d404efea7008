"""The observed ConfigMap of tuning.config as far as the controller can judge it: the file, its sections and the method.

Keys and values are the tuner's to judge, which knows its libraries; it does so before the first download.
"""

from __future__ import annotations

from typing import Any, Final

from kaito_api.conditions import Reason
from kaito_api.config_text import TRAINING_CHARACTERS, read_config
from kaito_api.suggestions import did_you_mean
from kaito_api.workspace import TuningMethod
from workspace_controller.inference_config import ConfigSource
from workspace_controller.tuning.config import CONFIG_KEY
from workspace_controller.validation.verdict import FieldError

ROOT: Final = "training_config"
SECTIONS: Final = (
    "ModelConfig",
    "QuantizationConfig",
    "LoraConfig",
    "TrainingArguments",
    "DatasetConfig",
    "DataCollator",
)
_PATH: Final = "tuning.config"
_TRUE: Final = (True, "true", "True", "yes")


def judge_training_config(name: str, source: ConfigSource | None, method: str) -> list[FieldError]:
    """Return what is wrong with the configuration. `source` None means that nobody looked."""
    if not name or source is None:
        return []
    if not source.found:
        message = f"ConfigMap {name!r} does not exist in this namespace: create it with the key {CONFIG_KEY}"
        return [FieldError(path=_PATH, reason=Reason.CONFIG_MAP_NOT_FOUND, message=message)]
    text = source.data.get(CONFIG_KEY)
    if text is None:
        keys = ", ".join(sorted(source.data)) or "none"
        words = f"lacks the key {CONFIG_KEY}{did_you_mean(CONFIG_KEY, source.data)}; its keys: {keys}"
        return [_error(name, words)]
    return [_error(name, f"{CONFIG_KEY}: {problem}") for problem in _problems(text, method)]


def _problems(text: str, method: str) -> list[str]:
    try:
        content = read_config(text, most=TRAINING_CHARACTERS)
    except ValueError as error:
        return [str(error)]
    if not isinstance(content, dict) or ROOT not in content:
        others = f", not {', '.join(map(str, content))[:200]}" if isinstance(content, dict) and content else ""
        return [f"must be a mapping with the key {ROOT}{others}"]
    root = content[ROOT]
    if root is None:
        return []
    if not isinstance(root, dict):
        return [f"{ROOT} must be a mapping of sections"]
    problems = [
        f"{ROOT}.{section} is not a known section{did_you_mean(str(section), SECTIONS)}; known are {', '.join(SECTIONS)}"
        for section in root
        if section not in SECTIONS
    ]
    return problems + _method_problems(root.get("QuantizationConfig"), method)


def _method_problems(section: Any, method: str) -> list[str]:
    """Return where the configuration and tuning.method disagree about quantisation."""
    if not isinstance(section, dict):
        return []
    four, eight = section.get("load_in_4bit"), section.get("load_in_8bit")
    if method == TuningMethod.LORA and (four in _TRUE or eight in _TRUE):
        return ["QuantizationConfig loads the model in 4 or 8 bits, but tuning.method is lora: change one of the two"]
    if method == TuningMethod.QLORA and four is False and eight not in _TRUE:
        return ["QuantizationConfig.load_in_4bit is false, but tuning.method is qlora: change one of the two"]
    return []


def _error(name: str, words: str) -> FieldError:
    return FieldError(path=_PATH, reason=Reason.CONFIG_INVALID, message=f"ConfigMap {name!r} {words}")
