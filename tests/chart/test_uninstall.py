"""The check before `helm uninstall` has the rights that it uses and no other, and sees Workspaces and either kind of claim."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from security_record import Right, read_record, rights

from kaito_local.pytest_plugin import ApiServer
from kubecore.testing.asserts import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
CHECK = "workspace-controller-uninstall"
WORKSPACE = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "resource": {"instanceType": "Standard_NC24ads_A100_v4", "labelSelector": {"matchLabels": {"apps": "phi"}}},
    "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
}


@asynccontextmanager
async def identities(apiserver: ApiServer, objects: list[dict[str, Any]]) -> AsyncIterator[dict[str, dict[str, Any]]]:
    """The check's objects by kind; all but the Job are on the apiserver."""
    mine = {each["kind"]: each for each in objects if each["metadata"]["name"] == CHECK}
    bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": [mine[k] for k in mine if k != "Job"]})
    await apiserver.kubectl("apply", "--server-side", "-f", "-", stdin=bundle)
    try:
        yield mine
    finally:
        await apiserver.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=bundle)


def claim(api: str, namespace: str) -> dict[str, Any]:
    """A claim as the controller labels it; its name sorts before all others that tests make."""
    plural = {"nodeclaim": "nodeclaims", "machine": "machines"}[api]
    definition = yaml.safe_load((ROOT / "crds" / f"karpenter.sh_{plural}.yaml").read_text())["spec"]
    spec: dict[str, Any] = {"requirements": []}
    if api == "nodeclaim":
        spec["nodeClassRef"] = {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"}
    else:
        spec["machineTemplateRef"] = {"name": "default"}
    return {
        "apiVersion": f"{definition['group']}/{definition['versions'][0]['name']}",
        "kind": definition["names"]["kind"],
        "metadata": {
            "name": f"aa-{namespace}",
            "labels": {"kaito.sh/workspace": "phi", "kaito.sh/workspacenamespace": namespace},
        },
        "spec": spec,
    }


@pytest.mark.parametrize("api", ["nodeclaim", "machine"])
async def test_it_sees_workspaces_and_claims_with_rights_of_which_all_are_used(
    apiserver: ApiServer, namespace: str, render: Any, log_in: Any, run_pod: Any, api: str
) -> None:
    objects = await render("--set", f"workspace-controller.settings.claimApi={api}", namespace=namespace)
    stray = claim(api, namespace)
    workspace = {**WORKSPACE, "metadata": {"name": "phi", "namespace": namespace}}
    since = apiserver.audit_log.stat().st_size if apiserver.audit_log.exists() else 0
    async with identities(apiserver, objects) as mine:
        assert mine["ServiceAccount"]["automountServiceAccountToken"] is False
        token = yaml.safe_load((await log_in(namespace, CHECK)).read_text())["users"][0]["user"]["token"]
        spec = mine["Job"]["spec"]["template"]["spec"]
        assert spec["serviceAccountName"] == CHECK
        where = {"url": apiserver.url, "ca": apiserver.state_dir / "pki" / "ca.crt", "token": token}
        try:
            for each in (workspace, stray):
                await apiserver.kubectl("create", "-f", "-", stdin=json.dumps(each))
            status, words = await run_pod(spec, **where)
        finally:
            for each in (workspace, stray):
                await apiserver.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=json.dumps(each))
        assert status == 1
        assert f"{namespace}/phi" in words or "and more" in words
        assert f"Claims, each a node that costs: {stray['metadata']['name']}" in words
        granted = rights(mine["ClusterRole"]["rules"])

        def used() -> set[Right]:
            return read_record(apiserver, f"system:serviceaccount:{namespace}:{CHECK}", since).used

        await eventually(lambda: used() == granted)  # the apiserver writes its record after it has answered
        assert {right.verb for right in granted} == {"list"}


async def test_the_controllers_service_policy_and_budget_do_not_find_its_pod(render: Any) -> None:
    objects = await render()
    of = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    labels = of["Job", CHECK]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        of["Service", "workspace-controller-metrics"]["spec"]["selector"],
        of["NetworkPolicy", "workspace-controller"]["spec"]["podSelector"]["matchLabels"],
        of["PodDisruptionBudget", "workspace-controller"]["spec"]["selector"]["matchLabels"],
    ]
    assert all(selectors)
    assert [each for each in selectors if each.items() <= labels.items()] == []


async def test_all_of_it_belongs_to_the_hook_and_a_value_turns_it_off(render: Any) -> None:
    on = [each for each in await render() if each["metadata"]["name"] == CHECK]
    assert {each["kind"] for each in on} == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Job"}
    for each in on:
        assert each["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete", "else it would stay in the cluster"
        policy = each["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert set(policy.split(",")) == {"before-hook-creation", "hook-succeeded"}
    job = next(each for each in on if each["kind"] == "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook-output-log-policy"] == "hook-failed"
    assert job["spec"]["backoffLimit"] == 0
    off = await render("--set", "workspace-controller.uninstallCheck.enabled=false")
    assert [each for each in off if each["metadata"]["name"] == CHECK] == []
