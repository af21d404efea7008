"""Pure: the objects of a workload as desired and as they stand, to what is written so that they agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from kaito_api import labels
from kaito_api.core import StatefulSet
from kaito_api.meta import Resource
from kaito_api.resources import NETWORKPOLICIES, SERVICES, STATEFULSETS
from workspace_controller.applied import immutable_changes, patch_of, spec_stamped, stands
from workspace_controller.decision import Delete, Patch
from workspace_controller.manifest import Manifest
from workspace_controller.observed import ChildId, Observed

_PRUNED: Final[dict[str, Resource[Any]]] = {SERVICES.plural: SERVICES, NETWORKPOLICIES.plural: NETWORKPOLICIES}


class Children(msgspec.Struct, frozen=True, kw_only=True):
    """What to write so that the Workspace's own objects are as desired."""

    creates: tuple[Manifest, ...] = ()
    patches: tuple[Patch, ...] = ()
    applies: tuple[Manifest, ...] = ()
    deletes: tuple[Delete, ...] = ()


def plan_children(observed: Observed, desired: Sequence[Manifest], *, nodes_ready: bool) -> Children:
    """Compare what is desired with what stands. A workload is first created when its nodes are ready."""
    creates: list[Manifest] = []
    patches: list[Patch] = []
    applies: list[Manifest] = []
    deletes: list[Delete] = _surplus(observed, desired)
    for manifest in desired:
        found = observed.child(manifest.resource, manifest.name)
        if found is None:
            if manifest.resource is not STATEFULSETS:
                creates.append(manifest)
            elif nodes_ready:
                applies.append(spec_stamped(manifest, None))
        elif found.metadata.deleting or stands(manifest, found, observed.applied_generations):
            continue
        elif not isinstance(found, StatefulSet):
            patches.append(patch_of(manifest, found))
        elif immutable_changes(manifest, found):
            meta = found.metadata
            deletes.append(Delete(resource=STATEFULSETS, key=meta.key, uid=meta.uid, propagation="Orphan"))
        else:
            applies.append(spec_stamped(manifest, found))
    return Children(creates=tuple(creates), patches=tuple(patches), applies=tuple(applies), deletes=tuple(deletes))


def _surplus(observed: Observed, desired: Sequence[Manifest]) -> list[Delete]:
    """Return what we once made and no longer want, such as the headless Service of a workload of several nodes."""
    if not desired:
        return []
    wanted = {ChildId(manifest.resource.plural, manifest.name) for manifest in desired}
    return [
        Delete(resource=_PRUNED[child.plural], key=found.metadata.key, uid=found.metadata.uid)
        for child, found in observed.children.items()
        if child.plural in _PRUNED
        and child not in wanted
        and observed.owns(found)
        and labels.APPLIED_HASH in found.metadata.annotations
        and not found.metadata.deleting
    ]
