"""adapter_config.json in one canonical form, so that the same adapter has the same bytes whoever saved it. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

import msgspec

_NAME = "base_model_name_or_path"
_RUNTIME = frozenset({"auto_mapping", "inference_mode", "peft_version"})
"""Keys that say how the adapter was saved or loaded, not what it is; peft_version goes into the annotations."""


def canonical_config(config: Mapping[str, Any], base_model: str) -> bytes:
    """The config with sorted keys, sorted target modules, without nulls and run-time keys, ended by a newline.

    `base_model`, where it is given, replaces the name of the base: PEFT writes the path of the machine that trained.
    """
    kept = {key: value for key, value in config.items() if value is not None and key not in _RUNTIME}
    kept["inference_mode"] = True
    if isinstance(kept.get("target_modules"), list):
        kept["target_modules"] = sorted(kept["target_modules"])
    if base_model:
        kept[_NAME] = base_model
    elif is_local_path(kept.get(_NAME)):
        kept[_NAME] = posixpath.basename(str(kept[_NAME]).rstrip("/"))
    return msgspec.json.format(msgspec.json.encode(kept, order="sorted"), indent=2) + b"\n"


def is_local_path(name: object) -> bool:
    """Whether a base model's name is a path of the machine that trained, and says nothing elsewhere."""
    return isinstance(name, str) and name.startswith(("/", "./", "../", "~"))
