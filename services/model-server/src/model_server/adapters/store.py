"""Adapters on disk: what was pulled, by digest; and each version as the engine reads it, with its strength folded in.

    <root>/pulled/<digest>/            adapter_config.json, adapter_model.safetensors: as in the image
    <root>/versions/<digest>-s<x>/     a hard link to the weights, and the config with lora_alpha times x
    <root>/known.json                  which digest each image had last: for a start while the registry is down

Scaling lora_alpha is exact: the engine multiplies lora_B by alpha/r (or alpha/sqrt(r)) once, when it loads.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from kaito_api.adapter import CONFIG_FILE, WEIGHTS_FILE
from model_server.adapters.version import Version

FileStates: TypeAlias = tuple[tuple[int, int, int, int, int], ...]
_CHUNK: Final = 1 << 20
_NAME_LENGTH: Final = 150
"""Characters of an adapter's name in the name of a folder, which may have 255 with the digest. The API allows names of 253."""


class AdapterStore:
    """The store at `root`. Methods block unless they say otherwise; call them in threads. One process uses it."""

    def __init__(self, root: Path) -> None:
        # Absolute: the engine looks a relative path that is absent up on a model hub.
        self._root = root.absolute()
        self._known: dict[str, str] = {}
        self._writing = threading.Lock()

    def pulled(self, digest: str) -> Path:
        """Return the folder for the content of an image."""
        return self._root / "pulled" / digest.replace(":", "-")

    def has(self, digest: str) -> bool:
        """Return whether that content is there, whole: the folder appears by one rename."""
        return (self.pulled(digest) / WEIGHTS_FILE).is_file()

    def prepare(self) -> None:
        """Make the folders, and clear what an earlier process staged (nothing uses it any more)."""
        (self._root / "pulled").mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._root / "versions", ignore_errors=True)
        (self._root / "versions").mkdir()
        self._known = self._read_known()

    def staged(self, digest: str) -> list[Path]:
        """Return the folders of versions with that content: the engine has read their weights, which lie in memory."""
        part = f"@{digest.replace(':', '-')}-s"
        folders = (self._root / "versions").iterdir()
        return sorted(folder for folder in folders if part in folder.name and not folder.name.startswith("."))

    def stage(self, source: Path, version: Version) -> Path:
        """Make the folder of `version` from the files in `source`; return its absolute path."""
        target = self._version(version)
        if target.is_dir():
            return target
        building = target.with_name(f".{target.name}")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        config = json.loads((source / CONFIG_FILE).read_bytes())
        (building / CONFIG_FILE).write_text(json.dumps(scaled(config, float(version.strength)), sort_keys=True))
        _link((*self.staged(version.digest), source), building)
        os.replace(building, target)
        return target

    def warm(self, folder: Path) -> None:
        """Read the weights once, so that the engine reads them from memory while everybody waits for it."""
        with (folder / WEIGHTS_FILE).open("rb", buffering=0) as file:
            buffer = bytearray(_CHUNK)
            while file.readinto(buffer):
                pass

    def remove(self, version: Version) -> None:
        """Remove the folder of a version that the engine does not hold any more."""
        shutil.rmtree(self._version(version), ignore_errors=True)

    def digests(self) -> list[str]:
        """Return the digests whose content is here; hidden folders are pulls under way."""
        names = [folder.name for folder in (self._root / "pulled").iterdir() if not folder.name.startswith(".")]
        return sorted(name.replace("-", ":", 1) for name in names)

    def discard(self, digest: str) -> None:
        """Remove what was pulled under that digest."""
        shutil.rmtree(self.pulled(digest), ignore_errors=True)

    def remember(self, image: str, digest: str) -> None:
        """Note what `image` resolved to."""
        with self._writing:
            if self._known.get(image) == digest:
                return
            self._known[image] = digest
            temporary = self._root / ".known.json"
            temporary.write_text(json.dumps(self._known, sort_keys=True))
            os.replace(temporary, self._root / "known.json")

    def last_digest(self, image: str) -> str:
        """Return the digest that `image` had last, or "". Does not block."""
        return self._known.get(image, "")

    def recall(self, image: str) -> str:
        """Return the digest that `image` had last and whose content is here, or ""."""
        digest = self.last_digest(image)
        return digest if digest and self.has(digest) else ""

    def _read_known(self) -> dict[str, str]:
        try:
            known = json.loads((self._root / "known.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return {str(image): str(digest) for image, digest in known.items()} if isinstance(known, dict) else {}

    def _version(self, version: Version) -> Path:
        digest = version.digest.replace(":", "-")
        return self._root / "versions" / f"{_short(version.name)}@{digest}-s{version.strength}"


def _short(name: str) -> str:
    """Return `name`, or a beginning of it that no other name has."""
    if len(name) <= _NAME_LENGTH:
        return name
    whole = hashlib.sha256(name.encode()).hexdigest()
    return f"{name[: _NAME_LENGTH - len(whole) - 1]}~{whole}"


def file_states(folder: Path) -> FileStates:
    """Return what changes when a file of an adapter in a mounted folder does. Raises OSError."""
    found = [(folder / name).stat() for name in (CONFIG_FILE, WEIGHTS_FILE)]
    return tuple((file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns) for file in found)


def content_digest(folder: Path) -> str:
    """Return a digest of an adapter in a mounted folder: its config and its weights."""
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with (folder / name).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def scaled(config: dict[str, Any], strength: float) -> dict[str, Any]:
    """Return an adapter's config with its effect multiplied by `strength`."""
    result = dict(config)
    result["lora_alpha"] = config["lora_alpha"] * strength
    pattern = config.get("alpha_pattern")
    if pattern:
        result["alpha_pattern"] = {module: alpha * strength for module, alpha in pattern.items()}
    return result


def _link(folders: Sequence[Path], target: Path) -> None:
    """Hard link the weights from the first folder that lets it, or copy them from the last one: it may be a volume."""
    for folder in folders:
        try:
            os.link(folder / WEIGHTS_FILE, target / WEIGHTS_FILE)
        except OSError:
            continue
        return
    shutil.copyfile(folders[-1] / WEIGHTS_FILE, target / WEIGHTS_FILE)
