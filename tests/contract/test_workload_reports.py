"""The fence around a workload's ServiceAccount: it may write its own pod's reports and nothing else.

All calls but those of the last tests carry the group system:masters: RBAC permits everything, so what is refused here is
refused by the policy alone.
"""

import copy
from typing import Any

import pytest

from kubecore.testing.asserts import eventually

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("policies")]

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "w-0", "labels": {"kaito.sh/workspace": "w"}, "annotations": {"kept": "yes"}},
    "spec": {
        "containers": [{"name": "model-server", "image": "i"}],
        "initContainers": [{"name": "weights", "image": "i"}],
        "serviceAccountName": "kaito-abc",
    },
}
MERGE = "application/merge-patch+json"
REPORT = {"metadata": {"annotations": {"kaito.sh/report.model-server": '{"v":1}'}}}
ONLY_REPORTS = "may change only the annotations kaito.sh/report.<container> of its own containers"
ONLY_ITSELF = "may report only on itself"
ONLY_ANNOTATIONS = "may not change labels, owner references or finalizers"


def pods(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/pods{'/' if name else ''}{name}"


def account(namespace: str, name: str = "kaito-abc") -> str:
    return f"system:serviceaccount:{namespace}:{name}"


def identity(pod: dict[str, Any]) -> dict[str, str]:
    meta = pod["metadata"]
    return {
        "authentication.kubernetes.io/pod-name": meta["name"],
        "authentication.kubernetes.io/pod-uid": meta["uid"],
    }


@pytest.fixture
async def pod(api: Any, namespace: str) -> dict[str, Any]:
    stored: dict[str, Any] = await api.create(pods(namespace), POD)
    return stored


@pytest.fixture
def workload(api: Any, namespace: str, pod: dict[str, Any]) -> Any:
    """The pod itself, were it cluster-admin."""
    return api.as_user(account(namespace), "system:masters", identity(pod))


async def test_a_pod_reports_on_itself(workload: Any, namespace: str) -> None:
    for container in ("model-server", "weights"):
        patch = {"metadata": {"annotations": {f"kaito.sh/report.{container}": "x" * 16384}}}
        await workload.merge(pods(namespace, "w-0"), patch)
    for value in ("other", None):
        patch = {"metadata": {"annotations": {"kaito.sh/report.weights": value}}}
        changed = await workload.merge(pods(namespace, "w-0"), patch)
    assert set(changed["metadata"]["annotations"]) == {"kept", "kaito.sh/report.model-server"}


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"metadata": {"annotations": {"kaito.sh/report.stranger": "x"}}}, ONLY_REPORTS),
        ({"metadata": {"annotations": {"kaito.sh/report.model-server.more": "x"}}}, ONLY_REPORTS),
        ({"metadata": {"annotations": {"other": "x"}}}, ONLY_REPORTS),
        ({"metadata": {"annotations": {"kept": "no"}}}, ONLY_REPORTS),
        ({"metadata": {"annotations": {"kept": None}}}, ONLY_REPORTS),
        ({"metadata": {"annotations": None}}, ONLY_REPORTS),
        ({"metadata": {"annotations": {"kaito.sh/report.model-server": "x" * 16385}}}, "at most 16384 characters"),
        ({"metadata": {"labels": {"app": "another-service"}}}, ONLY_ANNOTATIONS),
        ({"metadata": {"labels": {"kaito.sh/workspace": None}}}, ONLY_ANNOTATIONS),
        ({"metadata": {"labels": None}}, ONLY_ANNOTATIONS),
        ({"metadata": {"finalizers": ["a.b/c"]}}, ONLY_ANNOTATIONS),
        (
            {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]}},
            ONLY_ANNOTATIONS,
        ),
        ({"spec": {"activeDeadlineSeconds": 5}}, "may not change a pod's spec"),
        ({"spec": {"containers": [{"name": "model-server", "image": "another"}]}}, "may not change a pod's spec"),
        ({**REPORT, "spec": {"activeDeadlineSeconds": 5}}, "may not change a pod's spec"),
    ],
)
async def test_nothing_else_can_be_changed(workload: Any, namespace: str, patch: Any, message: str) -> None:
    assert message in await workload.refusal("PATCH", pods(namespace, "w-0"), patch, MERGE)


async def test_other_ways_of_writing_meet_the_same_fence(workload: Any, api: Any, namespace: str) -> None:
    path = pods(namespace, "w-0")
    labels = {"app": "another-service"}
    json_patch = [{"op": "add", "path": "/metadata/labels/app", "value": "x"}]
    assert ONLY_ANNOTATIONS in await workload.refusal("PATCH", path, json_patch, "application/json-patch+json")
    strategic = {"metadata": {"labels": labels}}
    assert ONLY_ANNOTATIONS in await workload.refusal(
        "PATCH", path, strategic, "application/strategic-merge-patch+json"
    )
    applied = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "w-0", "labels": labels}}
    assert ONLY_ANNOTATIONS in await workload.refusal(
        "PATCH", f"{path}?fieldManager=pod&force=true", applied, "application/apply-patch+yaml"
    )
    whole = await api.get(path)
    whole["metadata"]["labels"] = labels
    assert ONLY_ANNOTATIONS in await workload.refusal("PUT", path, whole)
    fresh = {**copy.deepcopy(POD), "metadata": {"name": "new"}}
    assert "may not create pods" in await workload.refusal("POST", pods(namespace), fresh)
    assert "may not create pods" in await workload.refusal(
        "PATCH", f"{pods(namespace, 'new')}?fieldManager=pod", fresh, "application/apply-patch+yaml"
    )


async def test_a_pod_cannot_speak_for_another(api: Any, namespace: str, pod: dict[str, Any]) -> None:
    await api.create(pods(namespace), {**POD, "metadata": {"name": "w-1"}})
    await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": f"{namespace}-x"}})
    elsewhere = await api.create(pods(f"{namespace}-x"), POD)
    cases = [
        (account(namespace), identity(pod), pods(namespace, "w-1")),
        (account(namespace), {}, pods(namespace, "w-0")),
        (
            account(namespace),
            {**identity(pod), "authentication.kubernetes.io/pod-uid": "another"},
            pods(namespace, "w-0"),
        ),
        (account(namespace), identity(elsewhere), pods(namespace, "w-0")),
        # The same name in another namespace: the account is not of that namespace.
        (account(namespace), identity(elsewhere), pods(f"{namespace}-x", "w-0")),
        (account(namespace, "kaito-"), {}, pods(namespace, "w-0")),
        (account(namespace, "kaito-a-b-c"), {}, pods(namespace, "w-0")),
    ]
    for user, extra, path in cases:
        somebody = api.as_user(user, "system:masters", extra)
        assert ONLY_ITSELF in await somebody.refusal("PATCH", path, REPORT, MERGE), (user, extra, path)
    await api.delete(f"/api/v1/namespaces/{namespace}-x")


async def test_others_are_not_concerned(api: Any, namespace: str, pod: dict[str, Any]) -> None:
    for user in ("admin", account(namespace, "default"), account(namespace, "my-kaito-abc"), "system:node:n"):
        await api.as_user(user, "system:masters").merge(
            pods(namespace, "w-0"), {"metadata": {"labels": {"a": user[:5]}}}
        )


async def test_a_real_token_of_the_pod_with_the_real_role(
    api: Any, anonymous: Any, namespace: str, pod: dict[str, Any]
) -> None:
    """As in production: a bound token, the Role that the controller grants, no impersonation."""
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    name = "kaito-abc"
    await api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}]
    await api.create(f"{rbac}/roles", {"metadata": {"name": name}, "rules": rules})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    await api.create(f"{rbac}/rolebindings", binding)
    bound = {"apiVersion": "v1", "kind": "Pod", "name": "w-0", "uid": pod["metadata"]["uid"]}
    answer = await api.create(
        f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}},
    )
    me = anonymous.with_token(answer["status"]["token"])
    # The authorizer learns of the Role through a watch: until then the answer is an AssertionError, too.
    reported = await eventually(lambda: me.merge(pods(namespace, "w-0"), REPORT))
    assert reported["metadata"]["annotations"]["kaito.sh/report.model-server"] == '{"v":1}'
    relabel = {"metadata": {"labels": {"a": "b"}}}
    assert ONLY_ANNOTATIONS in await me.refusal("PATCH", pods(namespace, "w-0"), relabel, MERGE)
    # The subresources are beyond the Role, so the policy need not judge them.
    for subresource, patch in (
        ("status", {"status": {"phase": "Succeeded"}}),
        ("ephemeralcontainers", {"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}}),
        ("resize", {"spec": {"containers": []}}),
    ):
        path = f"{pods(namespace, 'w-0')}/{subresource}"
        assert "is forbidden" in await me.refusal("PATCH", path, patch, MERGE)
    assert "is forbidden" in await me.refusal("GET", pods(namespace, "w-0"))
    assert "is forbidden" in await me.refusal("DELETE", pods(namespace, "w-0"))


async def test_a_token_that_is_not_bound_to_a_pod_is_worth_nothing(
    api: Any, anonymous: Any, namespace: str, pod: dict[str, Any]
) -> None:
    name = "kaito-abc"
    await api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
    await api.create(
        f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
        {
            "metadata": {"name": "all"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    )
    answer = await api.create(
        f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    )
    me = anonymous.with_token(answer["status"]["token"])

    async def refused_by_the_policy() -> bool:
        """And no longer by the authorizer, which learns of the binding through a watch."""
        return ONLY_ITSELF in await me.refusal("PATCH", pods(namespace, "w-0"), REPORT, MERGE)

    await eventually(refused_by_the_policy)
