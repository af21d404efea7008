"""Keys, paths, times, and the narrow views of built-in kinds on bytes as the apiserver writes them."""

from datetime import UTC, datetime

import msgspec
import pytest

from kaito_api import resources
from kaito_api.core import Job, Node, Pod, Role, Secret
from kaito_api.meta import Key, ObjectMeta, Resource, micro_time
from kaito_api.workspace import Workspace

ALL = [value for value in vars(resources).values() if isinstance(value, Resource)]


@pytest.mark.parametrize(
    ("resource", "namespace", "name", "path"),
    [
        (resources.PODS, "", "", "/api/v1/pods"),
        (resources.PODS, None, None, "/api/v1/pods"),
        (resources.PODS, "ns", None, "/api/v1/namespaces/ns/pods"),
        (resources.PODS, "ns", "p", "/api/v1/namespaces/ns/pods/p"),
        (resources.NODES, "", "n", "/api/v1/nodes/n"),
        (resources.WORKSPACES, "ns", "w", "/apis/kaito.sh/v1beta1/namespaces/ns/workspaces/w"),
        (resources.NODECLAIMS, "", "c", "/apis/karpenter.sh/v1/nodeclaims/c"),
        (resources.ROLES, "ns", "system:a", "/apis/rbac.authorization.k8s.io/v1/namespaces/ns/roles/system:a"),
        (resources.PODS, "ns", "../../x?y", "/api/v1/namespaces/ns/pods/..%2F..%2Fx%3Fy"),
    ],
)
def test_paths(resource: Resource[object], namespace: str | None, name: str | None, path: str) -> None:
    assert resource.path(namespace, name) == path


def test_impossible_paths_are_refused() -> None:
    with pytest.raises(ValueError, match="cluster-scoped"):
        resources.NODES.path("ns")
    with pytest.raises(ValueError, match="needs a namespace"):
        resources.PODS.path(None, "p")


@pytest.mark.parametrize("resource", ALL, ids=lambda resource: resource.kind)
def test_every_kind_decodes_from_the_least_that_the_apiserver_may_send(resource: Resource[object]) -> None:
    least = {
        "NodeClaim": {"spec": {"nodeClassRef": {"group": "g", "kind": "k", "name": "n"}, "requirements": []}},
        "RoleBinding": {"roleRef": {"apiGroup": "g", "kind": "Role", "name": "n"}},
        "Event": {"involvedObject": {}},
    }.get(resource.kind, {})
    body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": "x"}, **least}
    decoded = msgspec.json.decode(msgspec.json.encode(body), type=resource.type)
    assert decoded.metadata.key == Key("", "x")  # type: ignore[attr-defined]


def test_keys_read_well() -> None:
    assert str(Key("ns", "n")) == "ns/n"
    assert str(Key("", "n")) == "n"


def test_micro_time_has_exactly_six_decimals() -> None:
    assert micro_time(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02T03:04:05.000000Z"
    with pytest.raises(ValueError, match="without a zone"):
        micro_time(datetime(2026, 1, 2))  # noqa: DTZ001


def test_metadata_tells_its_controller_and_whether_it_goes() -> None:
    meta = msgspec.json.decode(
        b'{"name":"p","creationTimestamp":null,"deletionTimestamp":"2026-01-02T03:04:05Z","managedFields":[{}],'
        b'"ownerReferences":[{"apiVersion":"v1","kind":"A","name":"a","uid":"1"},'
        b'{"apiVersion":"v1","kind":"B","name":"b","uid":"2","controller":true}]}',
        type=ObjectMeta,
    )
    assert meta.deleting
    assert meta.controller is not None
    assert meta.controller.kind == "B"


def test_a_secret_does_not_show_its_values() -> None:
    secret = msgspec.json.decode(b'{"metadata":{"namespace":"ns","name":"s"},"data":{"k":"c2VjcmV0"}}', type=Secret)
    assert secret.data == {"k": b"secret"}
    assert "secret" not in f"{secret}{secret!r}".lower().replace("secret(", "")


def test_a_role_without_rules_has_null() -> None:
    assert msgspec.json.decode(b'{"metadata":{"name":"r"},"rules":null}', type=Role).rules is None


def test_readiness() -> None:
    node = b'{"metadata":{"name":"n"},"status":{"conditions":[{"type":"Ready","status":"%s","lastHeartbeatTime":"x"}]}}'
    assert msgspec.json.decode(node % b"True", type=Node).ready
    assert not msgspec.json.decode(node % b"Unknown", type=Node).ready
    pod = msgspec.json.decode(b'{"metadata":{"name":"p"},"status":{"phase":"Failed"}}', type=Pod)
    assert pod.finished
    assert not pod.ready
    job = b'{"metadata":{"name":"j"},"status":{"failed":3,"conditions":[{"type":"%s","status":"True"}]}}'
    assert not msgspec.json.decode(job % b"Suspended", type=Job).failed
    assert msgspec.json.decode(job % b"Failed", type=Job).failed
    assert msgspec.json.decode(job % b"Complete", type=Job).complete


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"resource": {}},
        {"resource": {"partition": {}}, "inference": {"preset": {}, "adapters": [{}]}, "tuning": {"method": "QLoRA"}},
        {"status": {"state": "Odd", "adapters": [{"name": "a", "state": "Odd"}], "conditions": []}},
    ],
)
def test_a_workspace_of_before_a_rule_still_decodes(body: dict[str, object]) -> None:
    """One bad object must not hide all others of a list."""
    msgspec.json.decode(msgspec.json.encode({"metadata": {"name": "w"}, **body}), type=Workspace)
