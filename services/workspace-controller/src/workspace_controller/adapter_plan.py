"""Pure: what adapters make of the pod template, and whether a change of it may restart the pods.

Adapters from images come and go while the engine runs. Two things do not: a volume is mounted when a pod is made, and the
engine's highest rank is fixed when it starts. What such a change needs waits until the user allows the restart.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kaito_api import labels
from kaito_api.core import StatefulSet
from kaito_api.workspace import AdapterSpec, DataSource, Workspace


class AdapterPlan(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What of the adapters is in the pod template."""

    rank: int = 0
    """The engine's rank where an adapter needs more than is planned by default; else 0."""
    volumes: dict[str, dict[str, Any]] = {}
    """Volume sources by adapter."""


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """The plan that the template is made with."""

    plan: AdapterPlan
    held: str = ""
    """What waits for a restart that nobody allowed, in words."""


def settle(workspace: Workspace, rank: int, statefulset: StatefulSet | None, *, allowed: bool) -> Settled:
    """Return the plan for `workspace`, whose adapters need `rank` (0: no more than the default).

    What stands is kept while it is enough: an adapter that goes never restarts anything, its volume stays mounted until
    another reason makes new pods.
    """
    needed = AdapterPlan(rank=rank, volumes=_volumes(workspace))
    standing = standing_plan(statefulset)
    if standing is None:
        return Settled(plan=needed)
    mounts = sorted(name for name, source in needed.volumes.items() if standing.volumes.get(name) != source)
    higher = needed.rank > standing.rank
    if not mounts and not higher:
        return Settled(plan=standing)
    if allowed:
        return Settled(plan=needed)
    wants = [f"adapter {name} comes from a volume" for name in mounts]
    if higher:
        wants.append(f"an adapter needs the engine to start with rank {needed.rank}")
    text = (
        f"{'; '.join(wants)}: the pods must be restarted. Set the annotation {labels.ADAPTER_RESTART}: "
        f"{labels.ALLOWED} to let that happen"
    )
    return Settled(plan=standing, held=f"{text}{', or pack the adapter as an image' if mounts else ''}.")


def standing_plan(statefulset: StatefulSet | None) -> AdapterPlan | None:
    """Return the plan that the pods of `statefulset` were made with; None where it does not say."""
    text = statefulset.metadata.annotations.get(labels.ADAPTER_PLAN) if statefulset is not None else None
    try:
        return msgspec.json.decode(text, type=AdapterPlan) if text is not None else None
    except msgspec.MsgspecError:
        return None


def with_volumes(workspace: Workspace, plan: AdapterPlan) -> Workspace:
    """Return `workspace` as the pod template is to see it: its adapters' volumes are those of `plan`."""
    inference = workspace.inference
    if inference is None or _volumes(workspace) == plan.volumes:
        return workspace
    images = [adapter for adapter in inference.adapters if not adapter.source.volume_source]
    mounted = [
        AdapterSpec(source=DataSource(name=name, volume_source=source)) for name, source in sorted(plan.volumes.items())
    ]
    return msgspec.structs.replace(workspace, inference=msgspec.structs.replace(inference, adapters=images + mounted))


def encoded(plan: AdapterPlan) -> str:
    """Return `plan` for the annotation on the StatefulSet."""
    return msgspec.json.encode(plan, order="sorted").decode()


def _volumes(workspace: Workspace) -> dict[str, dict[str, Any]]:
    adapters = workspace.inference.adapters if workspace.inference is not None else []
    return {found.source.name: found.source.volume_source for found in adapters if found.source.volume_source}
