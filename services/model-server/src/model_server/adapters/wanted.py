"""Which adapters should be served: the Workspace's, and those that were mounted when the pod was made. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from kaito_api import labels
from kaito_api.workspace import AdapterSpec, Workspace
from model_server.adapters.mounted import Mounted
from model_server.adapters.version import normalise_strength

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter as asked for. Exactly one of `image` and `folder` is set, or `problem` says why it cannot be served."""

    name: str
    image: str = ""
    folder: str = ""
    pull_secrets: tuple[str, ...] = ()
    strength: str = "1"
    problem: str = ""
    needs_restart: bool = False
    """The problem goes away when the pod is made again."""


def wanted(workspace: Workspace | None, mounted: Mounted, folder: str, base_name: str) -> dict[str, Wanted]:
    """Return the wanted adapters by name.

    `mounted` is what lies in `folder`. While no Workspace is known every mounted adapter serves at full strength; then the
    Workspace alone says which ones do, and how strongly.
    """
    if workspace is None:
        return {name: Wanted(name=name, folder=f"{folder}/{name}") for name in sorted(mounted.adapters)}
    result: dict[str, Wanted] = {}
    strong = workspace.metadata.annotations.get(labels.STRONG_ADAPTERS) == "true"
    for spec in workspace.inference.adapters if workspace.inference is not None else ():
        item = _from_spec(spec, mounted, folder, strong=strong)
        if item.name in result:
            item = Wanted(name=item.name, problem=f"the name {item.name} is used by two adapters")
        elif item.name == base_name:
            item = Wanted(name=item.name, problem=f"{item.name} is the name of the base model; choose another")
        result[item.name] = item
    return result


def _from_spec(spec: AdapterSpec, mounted: Mounted, folder: str, *, strong: bool) -> Wanted:
    source = spec.source
    name = source.name
    if not _NAME.fullmatch(name):
        return Wanted(name=name, problem=f"the name {name!r} must be lower case letters, digits, '-' and '.'")
    try:
        strength = normalise_strength(spec.strength, strong=strong)
    except ValueError as error:
        return Wanted(name=name, problem=str(error))
    if source.image:
        return Wanted(name=name, image=source.image, pull_secrets=tuple(source.image_pull_secrets), strength=strength)
    if name in mounted.folders:
        return Wanted(name=name, folder=f"{folder}/{name}", strength=strength)
    if source.volume_source is None:
        return Wanted(name=name, strength=strength, problem="the adapter names neither an image nor a volume")
    problem = "its volume is not mounted into this pod: restart the pods, or pack the adapter as an image"
    return Wanted(name=name, strength=strength, problem=problem, needs_restart=True)
