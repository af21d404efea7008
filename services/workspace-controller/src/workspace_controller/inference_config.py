"""The user's `inference_config.yaml` (key of the ConfigMap named by inference.config): parsed and checked.

KAITO's format: `vllm` maps arguments to values, `max_probe_steps` and `kv_cache_cpu_memory_utilization` stand beside it.
The file itself goes to the pod unchanged; here it is judged before a node is bought.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

import msgspec

from kaito_api.config_text import INFERENCE_CHARACTERS, kind, read_config, shown
from kaito_api.suggestions import did_you_mean
from workspace_controller.engine_arguments import ALLOWED, allowed, normalise, reserved

CONFIG_KEY: Final = "inference_config.yaml"
_TOP_LEVEL: Final = ("vllm", "max_probe_steps", "kv_cache_cpu_memory_utilization")
_LENGTH: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)([kKmM]?)")
_FACTORS: Final = {"": 1, "k": 1000, "m": 1000**2, "K": 1024, "M": 1024**2}


class ConfigSource(msgspec.Struct, frozen=True, kw_only=True):
    """The ConfigMap as observed. `found` is False where it does not exist (`data` is empty then)."""

    found: bool
    data: dict[str, str] = {}

    @property
    def digest(self) -> str:
        """Hash of the file, "" without one: a changed configuration is a changed pod template."""
        text = self.data.get(CONFIG_KEY)
        return "" if text is None else hashlib.sha256(text.encode()).hexdigest()[:16]


class InferenceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the planner needs to know of the file."""

    max_model_len: int | None = None
    """Tokens of context that the user insists on; None for the largest that fits."""
    arguments: tuple[str, ...] = ()
    """Normalised names of the vLLM arguments that are set, sorted."""
    warnings: tuple[str, ...] = ()


class ConfigProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong: `path` within the file ("" for the file as a whole) and what to do."""

    path: str
    message: str


def parse_config(text: str) -> InferenceConfig | tuple[ConfigProblem, ...]:
    """Parse the text of `inference_config.yaml`. Never raises: all problems are returned together."""
    content = _read(text)
    if isinstance(content, ConfigProblem):
        return (content,)
    problems = [
        ConfigProblem(
            path=str(key),
            message=f"is not a known key{did_you_mean(str(key), _TOP_LEVEL)}; known are {', '.join(_TOP_LEVEL)}",
        )
        for key in content
        if key not in _TOP_LEVEL
    ]
    arguments = content.get("vllm") or {}
    if not isinstance(arguments, dict):
        message = f"must map arguments to values, not be a {kind(arguments)}"
        return (*problems, ConfigProblem(path="vllm", message=message))
    problems += [problem for name, value in arguments.items() for problem in _argument_problems(str(name), value)]
    names = [normalise(str(name)) for name in arguments]
    problems += [
        ConfigProblem(path=f"vllm.{name}", message="is set twice, with hyphens and with underscores; keep one")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    length = next((value for name, value in arguments.items() if normalise(str(name)) == "max-model-len"), None)
    max_model_len = _context_length(length)
    if isinstance(max_model_len, ConfigProblem):
        return (*problems, max_model_len)
    if problems:
        return tuple(problems)
    return InferenceConfig(max_model_len=max_model_len, arguments=tuple(sorted(names)), warnings=_warnings(content))


def _read(text: str) -> dict[Any, Any] | ConfigProblem:
    try:
        content = read_config(text, most=INFERENCE_CHARACTERS)
    except ValueError as error:
        return ConfigProblem(path="", message=str(error))
    if content is None:
        return {}
    if not isinstance(content, dict):
        return ConfigProblem(path="", message=f"must be a mapping with the key vllm, not a {kind(content)}")
    return content


def _argument_problems(name: str, value: object) -> list[ConfigProblem]:
    argument = normalise(name)
    path = f"vllm.{name}"
    if (why := reserved(argument)) is not None:
        return [ConfigProblem(path=path, message=f"cannot be set here: {why}")]
    if not allowed(argument):
        return [ConfigProblem(path=path, message=f"is not an argument of vLLM{did_you_mean(argument, ALLOWED)}")]
    if value is None:
        return [ConfigProblem(path=path, message="has no value; for a switch write true or false")]
    return []


def _context_length(value: object) -> int | ConfigProblem | None:
    """vLLM's spelling: a number, a number with k, m (1000) or K, M (1024), "auto" or -1 for the largest that fits."""
    problem = ConfigProblem(
        path="vllm.max-model-len",
        message=f"must be a positive number of tokens, such as 8192 or 8k, or auto: {shown(value)}",
    )
    if value is None or value in ("auto", -1, "-1"):
        return None
    match = _LENGTH.fullmatch(str(value).strip()) if isinstance(value, int | float | str) else None
    if match is None:
        return problem
    number, suffix = match.groups()
    tokens = float(number) * _FACTORS[suffix]
    return int(tokens) if tokens >= 1 and tokens == int(tokens) else problem


def _warnings(content: dict[str, Any]) -> tuple[str, ...]:
    ignored = {
        "max_probe_steps": "max_probe_steps has no effect: the engine measures the context that fits",
        "kv_cache_cpu_memory_utilization": "kv_cache_cpu_memory_utilization has no effect: use vllm.kv-offloading-size",
    }
    return tuple(message for key, message in ignored.items() if key in content)
