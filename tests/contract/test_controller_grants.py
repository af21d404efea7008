"""What the workspace-controller may grant: every way to more than a workload needs is refused by the policy alone.

The controller carries the group system:masters here, so RBAC stands in no one's way.
"""

from typing import Any

import msgspec
import pytest

from kaito_api.workspace import Workspace
from workspace_controller.inference import registry_ca
from workspace_controller.inference.access import access, registry_secrets
from workspace_controller.inference.weights import Weights
from workspace_controller.naming import pod_names

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("policies")]

USER = "system:serviceaccount:kaito-system:kaito-controller"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
GROUP = "rbac.authorization.k8s.io"
WORKSPACE = {
    "apiGroups": ["kaito.sh"],
    "resources": ["workspaces"],
    "verbs": ["get", "list", "watch"],
    "resourceNames": ["w"],
}
SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["pull", "push"]}
PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}
ONLY_THESE = "may grant only: get, list and watch of one named Workspace; get of named Secrets; patch of pods"


def roles(namespace: str, name: str = "") -> str:
    return f"{RBAC}/namespaces/{namespace}/roles{'/' if name else ''}{name}"


def bindings(namespace: str, name: str = "") -> str:
    return f"{RBAC}/namespaces/{namespace}/rolebindings{'/' if name else ''}{name}"


def role(*rules: Any, name: str = "kaito-abc") -> dict[str, Any]:
    return {"apiVersion": f"{GROUP}/v1", "kind": "Role", "metadata": {"name": name}, "rules": list(rules)}


def binding(namespace: str, name: str = "kaito-abc", ref: Any = None, subject: Any = None) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": "kaito-abc", **(ref or {})},
        "subjects": [{"kind": "ServiceAccount", "name": "kaito-abc", "namespace": namespace, **(subject or {})}],
    }


@pytest.fixture
def controller(api: Any) -> Any:
    return api.as_user(USER, "system:masters")


async def test_what_a_workload_needs_is_granted(controller: Any, namespace: str) -> None:
    await controller.create(roles(namespace), role(WORKSPACE, SECRETS, PODS))
    await controller.create(bindings(namespace), binding(namespace))
    await controller.apply(roles(namespace, "kaito-abc"), role(WORKSPACE, PODS))
    await controller.apply(roles(namespace, "kaito-def"), role(WORKSPACE, name="kaito-def"))
    await controller.apply(bindings(namespace, "kaito-abc"), binding(namespace))


async def test_what_the_controller_writes_is_granted(controller: Any, namespace: str) -> None:
    """Plan and policy say the same: what one writes the other lets pass."""
    spec = {
        "metadata": {"name": "w", "namespace": namespace, "uid": "0b1c"},
        "inference": {
            "preset": {"name": "phi-4"},
            "adapters": [{"source": {"name": "a", "image": "i", "imagePullSecrets": ["adapters"]}}],
        },
    }
    collections = {"Role": roles(namespace), "RoleBinding": bindings(namespace)}
    workspace = msgspec.convert(spec, Workspace)
    secrets = registry_secrets(workspace.inference, Weights(volume={}, pull_secrets=("pull",)))
    made = access(workspace, pod_names("w", 2), secrets)
    written = [m for m in made if m.resource.kind in collections]
    assert len(written) == len(collections)
    for manifest in written:
        await controller.create(collections[manifest.resource.kind], manifest.body)


FORBIDDEN_RULES = [
    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
    {**WORKSPACE, "resourceNames": []},
    {key: value for key, value in WORKSPACE.items() if key != "resourceNames"},
    {**WORKSPACE, "resourceNames": ["w", "other"]},
    {**WORKSPACE, "resourceNames": [""]},
    {**WORKSPACE, "verbs": ["get", "patch"]},
    {**WORKSPACE, "verbs": ["*"]},
    {**WORKSPACE, "resources": ["workspaces", "workspaces/status"]},
    {**WORKSPACE, "resources": ["*"]},
    {**WORKSPACE, "apiGroups": ["kaito.sh", ""]},
    {**SECRETS, "resourceNames": []},
    {key: value for key, value in SECRETS.items() if key != "resourceNames"},
    {**SECRETS, "resourceNames": ["pull", ""]},
    {**SECRETS, "verbs": ["get", "list"]},
    {**SECRETS, "verbs": ["list"]},
    {**SECRETS, "verbs": ["*"]},
    {**SECRETS, "resources": ["secrets", "configmaps"]},
    {**PODS, "verbs": ["create"]},
    {**PODS, "verbs": ["patch", "delete"]},
    {**PODS, "resources": ["pods/exec"]},
    {**PODS, "resources": ["pods", "pods/exec"]},
    {**PODS, "resources": ["pods/ephemeralcontainers"]},
    {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"], "resourceNames": ["default"]},
    {"apiGroups": [GROUP], "resources": ["roles"], "verbs": ["escalate"], "resourceNames": ["kaito-abc"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"], "resourceNames": ["n"]},
]


@pytest.mark.parametrize("rule", FORBIDDEN_RULES)
async def test_other_rules_are_refused(controller: Any, api: Any, namespace: str, rule: Any) -> None:
    assert ONLY_THESE in await controller.refusal("POST", roles(namespace), role(rule))
    assert ONLY_THESE in await controller.refusal("POST", roles(namespace), role(WORKSPACE, rule))
    await api.create(roles(namespace), role(WORKSPACE))
    path = roles(namespace, "kaito-abc")
    assert ONLY_THESE in await controller.refusal("PUT", path, role(rule))
    assert ONLY_THESE in await controller.refusal("PATCH", path, {"rules": [rule]}, "application/merge-patch+json")
    assert ONLY_THESE in await controller.refusal(
        "PATCH", f"{path}?fieldManager=c&force=true", role(rule), "application/apply-patch+yaml"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "other"}, "begins with kaito-"),
        (
            {"ref": {"kind": "ClusterRole", "name": "cluster-admin"}},
            "may bind only Roles whose name begins with kaito-",
        ),
        ({"ref": {"kind": "ClusterRole", "name": "kaito-abc"}}, "may bind only Roles"),
        ({"ref": {"name": "admin"}}, "may bind only Roles"),
        ({"subject": {"name": "default"}}, "may grant only to ServiceAccounts"),
        ({"subject": {"namespace": "kube-system"}}, "may grant only to ServiceAccounts of the same namespace"),
        ({"subject": {"kind": "User", "name": "kaito-me", "apiGroup": GROUP, "namespace": ""}}, "may grant only to"),
        ({"subject": {"kind": "Group", "name": "kaito-us", "apiGroup": GROUP, "namespace": ""}}, "may grant only to"),
    ],
)
async def test_other_bindings_are_refused(controller: Any, namespace: str, changes: Any, message: str) -> None:
    assert message in await controller.refusal("POST", bindings(namespace), binding(namespace, **changes))


async def test_a_second_subject_is_judged_too(controller: Any, api: Any, namespace: str) -> None:
    await api.create(bindings(namespace), binding(namespace))
    stranger = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    patch = [{"op": "add", "path": "/subjects/-", "value": stranger}]
    refusal = await controller.refusal("PATCH", bindings(namespace, "kaito-abc"), patch, "application/json-patch+json")
    assert "may grant only to ServiceAccounts" in refusal


async def test_roles_of_others_cannot_be_touched(controller: Any, api: Any, namespace: str) -> None:
    await api.create(roles(namespace), role(WORKSPACE, name="theirs"))
    refusal = await controller.refusal(
        "PATCH", roles(namespace, "theirs"), {"rules": [PODS]}, "application/merge-patch+json"
    )
    assert "whose name begins with kaito-" in refusal
    generated = {**role(WORKSPACE), "metadata": {"generateName": "x-"}}
    assert "whose name begins with kaito-" in await controller.refusal("POST", roles(namespace), generated)


async def test_nothing_cluster_wide_and_nothing_in_system_namespaces(controller: Any) -> None:
    cluster_role = {**role(WORKSPACE), "kind": "ClusterRole"}
    assert "nothing cluster-wide" in await controller.refusal("POST", f"{RBAC}/clusterroles", cluster_role)
    everything = {
        "kind": "ClusterRoleBinding",
        "apiVersion": f"{GROUP}/v1",
        "metadata": {"name": "kaito-abc"},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "kaito-abc", "namespace": "default"}],
    }
    assert "nothing cluster-wide" in await controller.refusal("POST", f"{RBAC}/clusterrolebindings", everything)
    assert "namespaces of the system" in await controller.refusal("POST", roles("kube-system"), role(SECRETS))


def config_maps(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps{'/' if name else ''}{name}"


def authorities(namespace: str) -> dict[str, Any]:
    """The ConfigMap as the controller writes it."""
    workspace = msgspec.convert({"metadata": {"name": "w", "namespace": namespace, "uid": "0b1c"}}, Workspace)
    return registry_ca.config_map(workspace, "-----BEGIN CERTIFICATE-----").body


async def test_the_authorities_of_registries_are_written_and_renewed(controller: Any, namespace: str) -> None:
    made = authorities(namespace)
    await controller.create(config_maps(namespace), made)
    changed = {"data": {registry_ca.KEY: "another"}, "metadata": {"annotations": {"a": "b"}}}
    path = config_maps(namespace, made["metadata"]["name"])
    await controller.call("PATCH", path, changed, "application/merge-patch+json")


@pytest.mark.parametrize(
    ("metadata", "content"),
    [
        ({"name": "coredns"}, {}),
        ({"name": "kaito-abc"}, {}),
        ({"ownerReferences": []}, {}),
        ({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "w", "uid": "0b1c"}]}, {}),
        ({}, {"data": {"Corefile": "x"}}),
        ({}, {"data": {registry_ca.KEY: "x", "inference_config.yaml": "vllm: {}"}}),
        ({}, {"binaryData": {"script": "eA=="}}),
    ],
)
async def test_other_config_maps_are_refused(controller: Any, namespace: str, metadata: Any, content: Any) -> None:
    made = authorities(namespace)
    body = {**made, **content, "metadata": {**made["metadata"], **metadata}}
    refusal = await controller.refusal("POST", config_maps(namespace), body)
    assert "only ConfigMaps of a Workspace" in refusal or "begins with kaito-" in refusal


async def test_config_maps_of_others_cannot_be_taken_over(controller: Any, api: Any, namespace: str) -> None:
    """Whatever its name: one that no Workspace owns stays as it is, and one that a Workspace owns keeps its owner."""
    made = authorities(namespace)
    path = config_maps(namespace, made["metadata"]["name"])
    theirs = {**made, "metadata": {**made["metadata"], "ownerReferences": []}}
    await api.create(config_maps(namespace), theirs)
    owned = {"metadata": {"ownerReferences": made["metadata"]["ownerReferences"]}}
    assert "only ConfigMaps of a Workspace" in await controller.refusal(
        "PATCH", path, owned, "application/merge-patch+json"
    )
    await api.call("PATCH", path, owned, "application/merge-patch+json")
    freed = {"metadata": {"ownerReferences": None}}
    assert "only ConfigMaps of a Workspace" in await controller.refusal(
        "PATCH", path, freed, "application/merge-patch+json"
    )
    assert "namespaces of the system" in await controller.refusal(
        "POST", config_maps("kube-system"), authorities("kube-system")
    )


async def test_older_versions_of_the_api_lead_nowhere(controller: Any, namespace: str) -> None:
    path = roles(namespace).replace("/v1/", "/v1beta1/")
    assert "could not find the requested resource" in await controller.refusal("POST", path, role(FORBIDDEN_RULES[0]))


async def test_others_are_not_concerned(api: Any, namespace: str) -> None:
    for number, user in enumerate(("admin", f"{USER}-2", USER.replace("kaito-system", "other"))):
        somebody = api.as_user(user, "system:masters")
        await somebody.create(roles(namespace), role(FORBIDDEN_RULES[0], name=f"r{number}"))
