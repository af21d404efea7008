"""Pure: whether an object stands as it is desired, and what to write where it does not.

The body that was last written is remembered on the object itself as a hash. That tells our own changes apart from the
server's defaults without keeping a copy. What strangers change is seen by the generation (StatefulSets) or by comparing
the few fields that matter (the others have no generation). The generation that we gave is remembered on the object too, as
foreseen before the write: an edit while no controller ran is seen by the next one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from kaito_api import labels
from kaito_api.core import ConfigMap, Role, RoleBinding, Service, ServiceAccount, ServicePort, StatefulSet
from kaito_api.meta import Object
from workspace_controller.decision import Patch
from workspace_controller.manifest import Manifest

_HASH_DIGITS: Final = 16
_IMMUTABLE: Final = ("serviceName", "podManagementPolicy", "selector", "volumeClaimTemplates")


def stamped(manifest: Manifest) -> Manifest:
    """Return `manifest` with the hash of its body among its annotations."""
    metadata = manifest.body["metadata"]
    annotations = {**metadata.get("annotations", {}), labels.APPLIED_HASH: _digest(manifest.body)}
    body = {**manifest.body, "metadata": {**metadata, "annotations": annotations}}
    return Manifest(resource=manifest.resource, body=body)


def spec_stamped(manifest: Manifest, found: Object | None) -> Manifest:
    """Return the workload with the generation that its apply is about to give among its annotations, and the spec's hash.

    Where the same spec was applied and nobody has edited it since, the apiserver does not count the generation up.
    """
    metadata = manifest.body["metadata"]
    digest = _digest(manifest.body["spec"])
    generation = 1
    if found is not None:
        foreseen, before = _applied_spec(found)
        same = before == digest and foreseen >= found.metadata.generation
        generation = found.metadata.generation + (not same)
    annotations = {**metadata["annotations"], labels.APPLIED_SPEC: f"{generation}-{digest}"}
    return Manifest(
        resource=manifest.resource, body={**manifest.body, "metadata": {**metadata, "annotations": annotations}}
    )


def stands(manifest: Manifest, found: Object, generations: Mapping[str, int]) -> bool:
    """Whether `found` is what the stamped `manifest` says, as far as can be seen without asking the apiserver.

    `generations`: those that this process's applies gave, by UID.
    """
    wanted = manifest.body["metadata"]["annotations"][labels.APPLIED_HASH]
    if found.metadata.annotations.get(labels.APPLIED_HASH) != wanted:
        return False
    if isinstance(found, StatefulSet):
        return _ours(found, generations) and found.spec.replicas == manifest.body["spec"].get("replicas", 1)
    return _same(manifest, found)


def patch_of(manifest: Manifest, found: Object) -> Patch:
    """Return the merge patch that makes `found` as the stamped `manifest` says.

    A merge adds to maps: what somebody put into a Service's selector has to be taken out by name.
    """
    metadata = {name: manifest.body["metadata"].get(name, {}) for name in ("labels", "annotations")}
    content = {key: value for key, value in manifest.body.items() if key not in ("apiVersion", "kind", "metadata")}
    if isinstance(found, Service):
        wanted = content["spec"].get("selector", {})
        selector = {**dict.fromkeys(found.spec.selector.keys() - wanted.keys()), **wanted}
        content = {**content, "spec": {**content["spec"], "selector": selector}}
    return Patch(resource=manifest.resource, key=manifest.key, body={"metadata": metadata, **content})


def immutable_changes(manifest: Manifest, found: StatefulSet) -> tuple[str, ...]:
    """Return the fields of a StatefulSet that differ and cannot be changed: it must be replaced, its pods kept.

    One that we never applied (KAITO's own, from before a migration) is replaced as a whole: an apply merges lists by name, so
    its containers would stay beside ours.
    """
    if labels.APPLIED_HASH not in found.metadata.annotations:
        return ("managedFields",)
    wanted: dict[str, Any] = manifest.body["spec"]
    stored: dict[str, Any] = msgspec.to_builtins(found.spec)
    defaults = {"podManagementPolicy": "OrderedReady", "serviceName": "", "selector": {}, "volumeClaimTemplates": []}
    return tuple(
        name for name in _IMMUTABLE if not _covers(stored.get(name, defaults[name]), wanted.get(name, defaults[name]))
    )


def _covers(stored: object, wanted: object) -> bool:
    """Whether `stored` holds all of `wanted`; the server may have filled in more beside it."""
    if isinstance(wanted, dict):
        return isinstance(stored, dict) and all(_covers(stored.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(stored, list)
            and len(stored) == len(wanted)
            and all(_covers(mine, theirs) for mine, theirs in zip(stored, wanted, strict=True))
        )
    return stored == wanted


def _ours(found: StatefulSet, generations: Mapping[str, int]) -> bool:
    """Whether nobody has edited the spec since our last apply.

    A process that has not applied it itself goes by what was foreseen. Where the apply changed nothing after all (somebody had
    only added what we do not name), it is sent once more. A workload of an earlier version is left alone.
    """
    meta = found.metadata
    if meta.uid in generations:
        return meta.generation <= generations[meta.uid]
    foreseen, _ = _applied_spec(found)
    return foreseen in (0, meta.generation)


def _applied_spec(found: Object) -> tuple[int, str]:
    """Return the generation that was foreseen and the spec's hash; 0 where neither was noted."""
    generation, _, digest = found.metadata.annotations.get(labels.APPLIED_SPEC, "").partition("-")
    return (int(generation), digest) if generation.isdecimal() else (0, "")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:_HASH_DIGITS]


def _same(manifest: Manifest, found: Object) -> bool:
    """Compare what decides about rights and traffic; a kind without such fields is what its hash says."""
    body = manifest.body
    if isinstance(found, ServiceAccount):
        return found.automount_service_account_token == body.get("automountServiceAccountToken")
    if isinstance(found, Role):
        return (found.rules or []) == msgspec.convert(body, Role).rules
    if isinstance(found, RoleBinding):
        return found.subjects == msgspec.convert(body, RoleBinding).subjects
    if isinstance(found, ConfigMap):
        return found.data == msgspec.convert(body, ConfigMap).data
    if isinstance(found, Service):
        wanted = msgspec.convert(body, Service).spec
        same = (found.spec.type, found.spec.selector) == (wanted.type, wanted.selector)
        return same and [_port(port) for port in found.spec.ports] == [_port(port) for port in wanted.ports]
    return True


def _port(port: ServicePort) -> ServicePort:
    """Return the port without what the server chooses."""
    return msgspec.structs.replace(port, node_port=0, target_port=port.target_port or port.port)
