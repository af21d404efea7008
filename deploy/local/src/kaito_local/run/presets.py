"""Where the catalog expects the weights of a preset, and the demo model put there."""

from pathlib import Path
from typing import Any

import yaml

from kaito_local.demo_model.artifact import push_model
from kaito_local.errors import LocalError
from kaito_local.locations import REPOSITORY

DEMO_PRESETS = ("phi-3-mini-4k-instruct", "phi-3-mini-128k-instruct")
"""The presets that the demo model stands in for."""


def preset(name: str, folder: Path = REPOSITORY / "presets" / "models") -> dict[str, Any]:
    """The catalog's entry for a preset; LocalError when there is none."""
    for path in sorted(folder.glob("*.yaml")):
        for entry in yaml.safe_load(path.read_text()).get("models", ()):
            if entry["name"] == name:
                return dict(entry)
    raise LocalError(f"the catalog in {folder} has no preset {name}")


async def push_demo_models(registry: str, *, plain_http: bool) -> list[str]:
    """Push the demo model to every place in ``registry`` where one of its presets is looked for; returns the names."""
    names = []
    for name in DEMO_PRESETS:
        entry = preset(name)
        place = entry["image"]
        reference = f"{registry}/{place['repository']}:{place['tag']}"
        await push_model(reference, place.get("path", ""), entry["contextLength"], plain_http=plain_http)
        names.append(reference)
    return names
