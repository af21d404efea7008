"""Which adapters should be served: the Workspace's, and those that were mounted when the pod was made. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from kaito_api.workspace import AdapterSpec, Workspace
from model_server.adapters.version import normalise_strength

STRONG_ANNOTATION: Final = "kaito.sh/allow-adapter-strength-above-one"
"""On the Workspace: "true" admits strengths above 1."""
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter as asked for. Exactly one of `image` and `folder` is set, or `problem` says why it cannot be served."""

    name: str
    image: str = ""
    folder: str = ""
    pull_secrets: tuple[str, ...] = ()
    strength: str = "1"
    problem: str = ""


def wanted(workspace: Workspace | None, mounted: Iterable[str], folder: str, base_name: str) -> dict[str, Wanted]:
    """Return the wanted adapters by name.

    `mounted` are the sub-directories of `folder` that hold an adapter; the Workspace's entry of the same name gives
    their strength. A mounted one without an entry serves at full strength, as KAITO does.
    """
    result: dict[str, Wanted] = {}
    here = set(mounted)
    strong = workspace is not None and workspace.metadata.annotations.get(STRONG_ANNOTATION) == "true"
    specs = workspace.inference.adapters if workspace is not None and workspace.inference is not None else []
    for spec in specs:
        item = _from_spec(spec, here, folder, strong=strong)
        if item.name in result:
            item = Wanted(name=item.name, problem=f"the name {item.name} is used by two adapters")
        elif item.name == base_name:
            item = Wanted(name=item.name, problem=f"{item.name} is the name of the base model; choose another")
        result[item.name] = item
    for name in sorted(here - set(result)):
        result[name] = Wanted(name=name, folder=f"{folder}/{name}")
    return result


def _from_spec(spec: AdapterSpec, here: set[str], folder: str, *, strong: bool) -> Wanted:
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
    if name in here:
        return Wanted(name=name, folder=f"{folder}/{name}", strength=strength)
    return Wanted(name=name, strength=strength, problem="the adapter names no image, and no volume is mounted for it")
