"""The user's `training_config.yaml`: where it is, and its digest."""

from __future__ import annotations

import hashlib
from typing import Final

from workspace_controller.inference_config import ConfigSource

CONFIG_KEY: Final = "training_config.yaml"


def digest(source: ConfigSource | None) -> str:
    """Return a digest of the file, "" without one."""
    text = source.data.get(CONFIG_KEY) if source is not None else None
    return "" if text is None else hashlib.sha256(text.encode()).hexdigest()
