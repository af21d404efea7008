"""The examples as `make run` applies them: their placeholders replaced, and nothing else."""

from pathlib import Path
from typing import Any

import yaml

from kaito_api.meta import Key
from kaito_local.locations import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
TUNING = EXAMPLES / "tuning-phi-3-qlora.yaml"
ADAPTER = EXAMPLES / "inference-phi-3-with-adapters.yaml"


def tuning(image: str, secret: str, url: str) -> dict[str, Any]:
    """Return the tuning example with the image to push, the Secret that may push it, and the URL of the data."""
    manifest = _read(TUNING)
    manifest["tuning"]["output"] = {"image": image, "imagePushSecret": secret}
    manifest["tuning"]["input"]["urls"] = [url]
    return manifest


def with_adapter(image: str, secret: str) -> dict[str, Any]:
    """Return the adapter example with the image to serve and the Secret that may pull it."""
    manifest = _read(ADAPTER)
    (adapter,) = manifest["inference"]["adapters"]
    adapter["source"] |= {"image": image, "imagePullSecrets": [secret]}
    return manifest


def key_of(manifest: dict[str, Any], namespace: str = "default") -> Key:
    """Return where kubectl puts it."""
    return Key(namespace, manifest["metadata"]["name"])


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found
