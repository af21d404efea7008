"""From what should be served and what is, to the steps in between. Pure.

Order is the whole point: a new version is in the engine before its public name moves to it, the old one stays until
nothing uses it, and a name without a target stops being served before its version is retired.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from model_server.adapters.version import Version


class Load(msgspec.Struct, frozen=True, tag=True):
    """Put a version into the engine and read it back."""

    version: Version


class Publish(msgspec.Struct, frozen=True, tag=True):
    """Let the version's public name mean this version, for every request from now on."""

    version: Version


class Withdraw(msgspec.Struct, frozen=True, tag=True):
    """Serve nothing under this name any more."""

    name: str


class Retire(msgspec.Struct, frozen=True, tag=True):
    """Remove a version from the engine once no request uses it, then its folder."""

    version: Version


class Revive(msgspec.Struct, frozen=True, tag=True):
    """Stop retiring a version: it is wanted again."""

    version: Version


Step: TypeAlias = Load | Publish | Withdraw | Retire | Revive


class Actual(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine holds: versions by public name, all that are loaded, and those on their way out."""

    served: Mapping[str, Version] = {}
    loaded: frozenset[Version] = frozenset()
    retiring: frozenset[Version] = frozenset()
    """A part of `loaded`."""


def plan_adapter(name: str, target: Version | None, actual: Actual) -> list[Step]:
    """Return the steps that bring one name to `target` (None: served no more)."""
    steps: list[Step] = []
    if target is None:
        if name in actual.served:
            steps.append(Withdraw(name))
    elif actual.served.get(name) != target:
        if target not in actual.loaded:
            steps.append(Load(target))
        elif target in actual.retiring:
            steps.append(Revive(target))
        steps.append(Publish(target))
    stale = {version for version in actual.loaded if version.name == name and version != target}
    steps += [Retire(version) for version in sorted(stale - actual.retiring, key=lambda item: item.engine_name)]
    return steps


def apply(step: Step, actual: Actual) -> Actual:
    """Return what is after `step`: how the manager keeps its view. Raises ValueError for a step that would break serving."""
    served, loaded, retiring = dict(actual.served), set(actual.loaded), set(actual.retiring)
    match step:
        case Load(version):
            loaded.add(version)
        case Publish(version):
            if version not in loaded or version in retiring:
                raise ValueError(f"{version.engine_name} is not in the engine")
            served[version.name] = version
        case Withdraw(name):
            served.pop(name, None)
        case Retire(version):
            if version in served.values():
                raise ValueError(f"{version.engine_name} is being served")
            retiring.add(version)
        case Revive(version):
            retiring.discard(version)
    return Actual(served=served, loaded=frozenset(loaded), retiring=frozenset(retiring))


def gone(version: Version, actual: Actual) -> Actual:
    """Return what is after a retired version has left the engine."""
    return Actual(served=actual.served, loaded=actual.loaded - {version}, retiring=actual.retiring - {version})
