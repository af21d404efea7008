"""Whether an object stands as desired: by hash, generation and the few fields that matter."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kaito_api.core import Role, RoleBinding, Service, ServiceAccount, StatefulSet
from kaito_api.resources import ROLEBINDINGS, ROLES, SERVICEACCOUNTS, SERVICES, STATEFULSETS
from workspace_controller.applied import immutable_changes, patch_of, spec_stamped, stamped, stands
from workspace_controller.manifest import Manifest, manifest

META = {"name": "phi", "namespace": "team", "uid": "u", "generation": 3}
SELECTOR = {"matchLabels": {"a": "b"}}
SPEC = {"replicas": 2, "serviceName": "phi", "podManagementPolicy": "Parallel", "selector": SELECTOR}
PORTS = [{"name": "http", "port": 80, "targetPort": 5000}]


def desired(resource: Any, **content: Any) -> Manifest:
    return stamped(manifest(resource, {"name": "phi", "namespace": "team"}, **content))


def stored(of: Manifest, **changes: Any) -> Any:
    """What the apiserver has after the manifest was written, with some changes by others."""
    metadata = {**META, "annotations": of.body["metadata"]["annotations"]}
    return msgspec.convert({**of.body, **changes, "metadata": metadata}, of.resource.type)


STATEFULSET = desired(STATEFULSETS, spec=SPEC)
SERVICE = desired(SERVICES, spec={"ports": PORTS, "selector": {"a": "b"}, "type": "ClusterIP"})
ACCOUNT = desired(SERVICEACCOUNTS, automountServiceAccountToken=False)
ROLE = desired(ROLES, rules=[{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}])
BINDING = desired(
    ROLEBINDINGS, roleRef={"kind": "Role", "name": "x", "apiGroup": "g"}, subjects=[{"kind": "User", "name": "u"}]
)


@pytest.mark.parametrize("of", [STATEFULSET, SERVICE, ROLE, BINDING, ACCOUNT])
def test_what_was_written_stands(of: Manifest) -> None:
    assert stands(of, stored(of), {})


def test_defaults_of_the_server_are_no_difference() -> None:
    ports = [{**PORTS[0], "protocol": "TCP", "nodePort": 31234}]
    spec = {"ports": ports, "selector": {"a": "b"}, "clusterIP": "10.0.0.1", "type": "ClusterIP"}
    assert stands(SERVICE, stored(SERVICE, spec=spec), {})


CHANGED: dict[str, tuple[Manifest, dict[str, Any], dict[str, int]]] = {
    "generation beyond our apply": (STATEFULSET, {}, {"u": 2}),
    "replicas": (STATEFULSET, {"spec": {**SPEC, "replicas": 5}}, {}),
    "rights": (ROLE, {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}, {}),
    "no rights": (ROLE, {"rules": None}, {}),
    "subjects": (BINDING, {"subjects": [{"kind": "Group", "name": "system:authenticated"}]}, {}),
    "selector": (SERVICE, {"spec": {"ports": PORTS, "selector": {"a": "c"}}}, {}),
    "port": (SERVICE, {"spec": {"ports": [{"port": 81}], "selector": {"a": "b"}}}, {}),
    "selector with one more label": (SERVICE, {"spec": {"ports": PORTS, "selector": {"a": "b", "x": "y"}}}, {}),
    "type": (SERVICE, {"spec": {"ports": PORTS, "selector": {"a": "b"}, "type": "LoadBalancer"}}, {}),
    "token": (ACCOUNT, {"automountServiceAccountToken": True}, {}),
}


def noted(generation: int, of: Manifest = STATEFULSET) -> Any:
    """The StatefulSet of generation 3 with the note of an apply that was to give `generation`."""
    before = stored(of)
    before = msgspec.structs.replace(
        before, metadata=msgspec.structs.replace(before.metadata, generation=generation - 1)
    )
    return stored(spec_stamped(of, before))


EDITED: dict[str, tuple[Any, dict[str, int], bool]] = {
    "as we left it": (noted(3), {}, True),
    "edited while no controller ran": (noted(2), {}, False),
    "an apply that changed nothing": (noted(4), {}, False),
    "the same, in the process that did it": (noted(4), {"u": 3}, True),
    "edited, and foreseen as if it were ours": (noted(3), {"u": 2}, False),
    "applied by an earlier version": (stored(STATEFULSET), {}, True),
}


@pytest.mark.parametrize("case", EDITED)
def test_an_edit_is_told_from_our_own_apply(case: str) -> None:
    found, generations, same = EDITED[case]
    assert stands(STATEFULSET, found, generations) is same


def test_the_generation_is_foreseen() -> None:
    def foreseen(of: Manifest, found: Any) -> str:
        generation, _, _ = (
            spec_stamped(of, found).body["metadata"]["annotations"]["kaito.sh/applied-spec"].partition("-")
        )
        return str(generation)

    assert foreseen(STATEFULSET, None) == "1"
    assert foreseen(STATEFULSET, noted(3)) == "3", "only metadata changes: the apiserver does not count"
    assert foreseen(STATEFULSET, noted(2)) == "4", "it undoes an edit"
    assert foreseen(STATEFULSET, noted(4)) == "3", "the last one changed nothing, so this one does not either"
    assert foreseen(STATEFULSET, stored(STATEFULSET)) == "4"
    assert foreseen(desired(STATEFULSETS, spec={**SPEC, "replicas": 1}), noted(3)) == "4"


@pytest.mark.parametrize("case", CHANGED)
def test_what_others_change_is_seen(case: str) -> None:
    of, changes, generations = CHANGED[case]
    assert not stands(of, stored(of, **changes), generations)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    kept = {**target} if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = merged(kept.get(name), value)
    return kept


@pytest.mark.parametrize("case", [case for case, (of, *_) in CHANGED.items() if of is not STATEFULSET])
def test_one_patch_undoes_what_others_changed(case: str) -> None:
    """Else every look would write the same patch again, and nothing would change."""
    of, changes, _ = CHANGED[case]
    found = stored(of, **changes)
    after = merged(msgspec.to_builtins(found), patch_of(of, found).body)
    assert stands(of, msgspec.convert(after, of.resource.type), {})


def test_a_new_desire_does_not_stand() -> None:
    changed = desired(STATEFULSETS, spec={**SPEC, "template": {"spec": {"hostname": "new"}}})
    assert not stands(changed, stored(STATEFULSET), {})
    assert stands(STATEFULSET, stored(STATEFULSET), {"u": 3})


@pytest.mark.parametrize("kind", [StatefulSet, Service, Role, RoleBinding, ServiceAccount])
def test_an_object_without_our_hash_does_not_stand(kind: Any) -> None:
    of = {StatefulSet: STATEFULSET, Service: SERVICE, Role: ROLE, RoleBinding: BINDING}.get(
        kind, desired(SERVICEACCOUNTS)
    )
    bare = msgspec.convert({**of.body, "metadata": META}, kind)
    assert not stands(of, bare, {})


IMMUTABLE: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "nothing": ({}, ()),
    "replicas are mutable": ({"replicas": 9}, ()),
    "service name": ({"serviceName": "other"}, ("serviceName",)),
    "policy": ({"podManagementPolicy": "OrderedReady"}, ("podManagementPolicy",)),
    "selector": ({"selector": {"matchLabels": {"a": "c"}}}, ("selector",)),
    "one claim more": ({"volumeClaimTemplates": [{"metadata": {"name": "w"}}]}, ("volumeClaimTemplates",)),
}


@pytest.mark.parametrize("case", IMMUTABLE)
def test_immutable_fields(case: str) -> None:
    changes, fields = IMMUTABLE[case]
    assert immutable_changes(desired(STATEFULSETS, spec={**SPEC, **changes}), stored(STATEFULSET)) == fields


def test_server_defaults_in_claim_templates_are_no_change() -> None:
    wanted = {"metadata": {"name": "w"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    filled = {**wanted, "spec": {**wanted["spec"], "volumeMode": "Filesystem"}, "status": {"phase": "Pending"}}
    of = desired(STATEFULSETS, spec={**SPEC, "volumeClaimTemplates": [wanted]})
    assert immutable_changes(of, stored(of, spec={**SPEC, "volumeClaimTemplates": [filled]})) == ()


def test_the_patch_holds_content_and_labels_but_no_identity() -> None:
    body = patch_of(ROLE, stored(ROLE)).body
    assert sorted(body) == ["metadata", "rules"]
    assert sorted(body["metadata"]) == ["annotations", "labels"]


def test_the_stamp_does_not_depend_on_the_order_of_keys() -> None:
    turned = desired(STATEFULSETS, spec=dict(reversed(SPEC.items())))
    assert turned.body["metadata"]["annotations"] == STATEFULSET.body["metadata"]["annotations"]
