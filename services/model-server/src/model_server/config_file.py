"""`inference_config.yaml`: the file that a Workspace's `inference.config` ConfigMap carries.

The format is KAITO's: a mapping `vllm` of engine arguments (dashes or underscores), and two settings of KAITO's own
wrapper that have no meaning here and are accepted so that users' files keep working.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from kaito_api.config_text import INFERENCE_CHARACTERS, kind, read_config
from model_server.exits import ExitCode, FatalError

INERT_KEYS: Final = {
    "max_probe_steps": "KAITO ignores it as well; the engine finds the longest context by itself (max-model-len: auto)",
    "kv_cache_cpu_memory_utilization": "this server has no LMCache; use vllm.kv-offloading-size to keep KV in host memory",
}
"""Keys of KAITO's file that are accepted and do nothing, with the reason that is logged."""
_TOP_KEYS: Final = ("vllm", *INERT_KEYS)


class InferenceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The parsed file: engine arguments as the user wrote them, and a note for each key without effect."""

    vllm: dict[str, Any] = {}
    notes: tuple[str, ...] = ()


def parse(text: str, origin: str) -> InferenceConfig:
    """Parse the text of the file at `origin` (used in messages only). Raises FatalError(CONFIG_INVALID)."""
    try:
        document = read_config(text, most=INFERENCE_CHARACTERS)
    except ValueError as error:
        raise FatalError(ExitCode.CONFIG_INVALID, f"{origin} {error}") from error
    if document is None:
        return InferenceConfig()
    if not isinstance(document, dict):
        raise FatalError(
            ExitCode.CONFIG_INVALID,
            f"{origin} must be a mapping with the key vllm, but it is a {kind(document)}",
        )
    unknown = sorted(str(key) for key in document if key not in _TOP_KEYS)
    if unknown:
        raise FatalError(
            ExitCode.CONFIG_INVALID,
            f"{origin} has unknown top-level keys: {', '.join(unknown)}. Known are {', '.join(_TOP_KEYS)}; "
            "engine arguments belong under vllm",
        )
    arguments = document.get("vllm")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise FatalError(
            ExitCode.CONFIG_INVALID,
            f"vllm in {origin} must be a mapping of engine arguments, but it is a {kind(arguments)}",
        )
    notes = tuple(f"{key} has no effect: {why}" for key, why in INERT_KEYS.items() if key in document)
    return InferenceConfig(vllm={str(key): value for key, value in arguments.items()}, notes=notes)
