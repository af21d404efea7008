"""Adapters that were mounted into the pod when it was made. The set of mounts never changes while the pod lives."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kaito_api.adapter import CONFIG_FILE


class Mounted(msgspec.Struct, frozen=True):
    """Names of the sub-directories of the mount folder, and of those that hold an adapter."""

    folders: frozenset[str] = frozenset()
    adapters: frozenset[str] = frozenset()


def look(folder: Path) -> Mounted:
    """Look into `folder` once. Blocks: a volume may be slow. An absent or unreadable folder holds nothing."""
    try:
        folders = frozenset(entry.name for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return Mounted()
    return Mounted(folders, frozenset(name for name in folders if (folder / name / CONFIG_FILE).is_file()))
