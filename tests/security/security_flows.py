"""What happens to Workspaces while the controller's rights are watched: each step makes it use some of them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kaito_api import labels
from kaito_api.conditions import find_condition, is_true
from kaito_api.core import StatefulSet
from kaito_api.meta import Key, Resource
from kaito_api.report import Report, encode
from kaito_api.resources import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DEPLOYMENTS,
    JOBS,
    NETWORKPOLICIES,
    NODES,
    PODS,
    ROLEBINDINGS,
    ROLES,
    SERVICEACCOUNTS,
    SERVICES,
    STATEFULSETS,
    WORKSPACES,
)
from kaito_api.workspace import Workspace
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.errors import NotFound
from kubecore.leader import LeaderConfig
from kubecore.testing.asserts import eventually
from kubecore.transport import Request, Transport
from workspace_controller.catalog_files import load_catalog
from workspace_controller.inference.registry_ca import KEY
from workspace_controller.naming import (
    headless_service_name,
    network_policy_name,
    registry_ca_name,
    service_account_name,
)
from workspace_controller.process_settings import ProcessSettings
from workspace_controller.settings import Settings
from workspace_controller.wiring import wire

SERVICE = "workspace-controller"
RELEASE = "kaito-security"
POLICIES = ("kaito-controller-grants", "kaito-workload-reports")
MANIFEST: dict[str, Any] = {
    "resource": {"instanceType": "Standard_NC24ads_A100_v4", "labelSelector": {"matchLabels": {"apps": "phi"}}},
    "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
}
TUNING: dict[str, Any] = {
    "resource": {"instanceType": "Standard_NC24ads_A100_v4", "labelSelector": {"matchLabels": {"app": "tune"}}},
    "tuning": {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://data.example/rows.parquet"]},
        "output": {"image": "registry.example/adapters/tuned:1", "imagePushSecret": "push"},
    },
}
ADAPTER = {
    "source": {"name": "extra", "image": "registry.local/extra:1", "imagePullSecrets": ["pull"]},
    "strength": "0.5",
}
PATIENCE = 60.0
STAMP = datetime(2026, 1, 1, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@asynccontextmanager
async def controller(kubeconfig: Path, settings: Settings) -> AsyncIterator[None]:
    """The whole controller as the holder of that kubeconfig, with election and the demand for the policies."""
    # Patient: a machine that stands still for some seconds costs a process its lease, and ends it.
    leader = LeaderConfig(SERVICE, RELEASE, lease_seconds=30, renew_deadline=20.0)
    process = ProcessSettings(
        health_port=0, metrics_port=0, sweep_seconds=0.5, leader=leader, required_policies=POLICIES
    )
    async with Transport(load_config(str(kubeconfig)), user_agent=SERVICE, field_manager=SERVICE) as link:
        wired = await wire(Client(link), load_catalog(None), settings, process)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(wired.manager.run())
            yield
            wired.manager.stop()
            await task


class Flows:
    """The hands of users, kubelet and the StatefulSet controller in one namespace."""

    def __init__(self, client: Client, namespace: str, claims: Resource[Any]) -> None:
        self.client = client
        self.namespace = namespace
        self.claims = claims

    def key(self, name: str) -> Key:
        return Key(self.namespace, name)

    async def apply(self, name: str, manifest: dict[str, Any]) -> Workspace:
        body = {"metadata": {"name": name, "namespace": self.namespace}, **manifest}
        return await self.client.apply(WORKSPACES, body, manager="user")

    async def find(self, res: Resource[Any], name: str) -> Any:
        try:
            return await self.client.get(res, self.key(name) if res.namespaced else Key("", name))
        except NotFound:
            return None

    async def until(self, name: str, type_: str, reason: str = "") -> None:
        """Wait until a condition is True, or has that reason."""

        async def check() -> bool:
            conditions = (await self.client.get(WORKSPACES, self.key(name))).status.conditions
            found = find_condition(conditions, type_)
            assert found is not None
            assert found.reason == reason if reason else is_true(conditions, type_), conditions
            return True

        await eventually(check, timeout=PATIENCE)

    async def gone(self, res: Resource[Any], name: str) -> None:
        async def check() -> bool:
            assert await self.find(res, name) is None
            return True

        await eventually(check, timeout=PATIENCE)

    async def replaced_by_another(self, res: Resource[Any], name: str, uid: str) -> None:
        async def check() -> bool:
            found = await self.find(res, name)
            return found is not None and found.metadata.uid != uid

        await eventually(check, timeout=PATIENCE)

    async def serve(self, name: str, manifest: dict[str, Any], said: Report | None = None) -> None:
        """From the manifest to a pod that serves. The pod is the template's own: restricted Pod Security judges it.

        `said` is what its model server reports before it is ready.
        """
        await self.apply(name, manifest)
        found: StatefulSet = await self.planned(STATEFULSETS, name)
        await self.pod(STATEFULSETS, name, f"{name}-0", nodeName=await self.node(name))
        if said is not None:
            notes = {labels.report_annotation("model-server"): encode(said).decode()}
            await self.client.patch(PODS, self.key(f"{name}-0"), {"metadata": {"annotations": notes}})
        await self.pod_ready(name, ready=True)
        counts = {"observedGeneration": found.metadata.generation, "replicas": 1, "readyReplicas": 1}
        counts |= {"updatedReplicas": 1, "currentRevision": "one", "updateRevision": "one"}
        await self.client.patch(STATEFULSETS, self.key(name), {"status": counts}, subresource="status")
        await self.until(name, "WorkspaceSucceeded")

    async def planned(self, res: Resource[Any], name: str) -> Any:
        """Wait until the controller has made the StatefulSet or Job."""

        async def check() -> Any:
            found = await self.find(res, name)
            assert found is not None, (await self.client.get(WORKSPACES, self.key(name))).status.conditions
            return found

        return await eventually(check, timeout=PATIENCE)

    async def pod(self, res: Resource[Any], name: str, pod: str, **spec: str) -> dict[str, Any]:
        """Make the pod as the template of the StatefulSet or Job says, with `spec` added; return the template's spec."""
        raw = await self.raw(res, name)
        template = raw["spec"]["template"]
        owner = {"apiVersion": res.api_version, "kind": res.kind, "name": name, "uid": raw["metadata"]["uid"]}
        metadata = {**template["metadata"], "name": pod, "namespace": self.namespace}
        metadata["ownerReferences"] = [{**owner, "controller": True}]
        await self.client.create(PODS, {"metadata": metadata, "spec": {**template["spec"], **spec}})
        planned: dict[str, Any] = template["spec"]
        return planned

    async def node(self, name: str) -> str:
        selector = f"{labels.WORKSPACE}={name},{labels.WORKSPACE_NAMESPACE}={self.namespace}"
        nodes = await self.client.list(NODES, label_selector=selector)
        return nodes[0].metadata.name

    async def raw(self, res: Resource[Any], name: str) -> dict[str, Any]:
        import msgspec

        request = Request("GET", res.path(self.namespace if res.namespaced else "", name), "get", res.plural)
        found: dict[str, Any] = msgspec.json.decode(await self.client.transport.request(request, timeout=30))
        return found

    async def pod_ready(self, name: str, *, ready: bool) -> None:
        state = {"running": {"startedAt": STAMP}} if ready else {"terminated": {"exitCode": 71, "reason": "Error"}}
        container = {"name": "model-server", "ready": ready, "restartCount": 0, "image": "i", "imageID": ""}
        conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": STAMP}]
        status = {"phase": "Running", "conditions": conditions, "containerStatuses": [{**container, "state": state}]}
        await self.client.patch(PODS, self.key(f"{name}-0"), {"status": status}, subresource="status")

    async def strangers(self) -> None:
        """Under each name that a Workspace needs stands somebody else's object: it is looked at and left alone."""
        account = {"metadata": {"name": service_account_name("taken"), "namespace": self.namespace}}
        reference = {"apiGroup": ROLES.group, "kind": "Role", "name": "view"}
        trust = {"metadata": {"name": registry_ca_name("taken"), "namespace": self.namespace}}
        strangers: list[tuple[Resource[Any], dict[str, Any]]] = [
            (SERVICEACCOUNTS, account),
            (ROLES, {**account, "rules": []}),
            (ROLEBINDINGS, {**account, "roleRef": reference}),
            (CONFIGMAPS, trust),
        ]
        for res, body in strangers:
            await self.client.create(res, body)
            await self.apply("taken", MANIFEST)
            await self.until("taken", "WorkspaceSucceeded", "NameTaken")
            await self.client.delete(WORKSPACES, self.key("taken"))
            await self.gone(WORKSPACES, "taken")
            await self.client.delete(res, self.key(body["metadata"]["name"]))
            for left, made in strangers:  # no garbage collector runs here
                await self.client.delete(left, self.key(made["metadata"]["name"]))
            await self.client.delete(SERVICES, self.key("taken"))

    async def tune(self, name: str) -> None:
        """From the manifest to a Job that has ended: its node is given back."""
        await self.apply(name, TUNING)
        await self.planned(JOBS, name)
        await self.pod(JOBS, name, f"{name}-1")
        await self.client.patch(PODS, self.key(f"{name}-1"), {"status": {"phase": "Succeeded"}}, subresource="status")
        ended = {"lastProbeTime": STAMP, "lastTransitionTime": STAMP, "status": "True"}
        conditions = [{"type": type_, **ended} for type_ in ("SuccessCriteriaMet", "Complete")]
        status = {"conditions": conditions, "startTime": STAMP, "completionTime": STAMP, "succeeded": 1}
        await self.client.patch(JOBS, self.key(name), {"status": status}, subresource="status")
        await self.until(name, "WorkspaceSucceeded")

        async def given_back() -> bool:
            selector = f"{labels.WORKSPACE}={name},{labels.WORKSPACE_NAMESPACE}={self.namespace}"
            return not await self.client.list(self.claims, label_selector=selector)

        await eventually(given_back, timeout=PATIENCE)

    async def history(self, name: str) -> None:
        """More edits than the history keeps, then back to an earlier one."""
        manifest = copy.deepcopy(MANIFEST)
        for number in [*range(12), 9]:
            manifest["inference"]["adapters"] = [{**ADAPTER, "strength": f"0.{number:02d}"}]
            stored = await self.apply(name, manifest)

            async def seen(generation: int = stored.metadata.generation) -> bool:
                found = await self.client.get(WORKSPACES, self.key(name))
                condition = find_condition(found.status.conditions, "WorkspaceSucceeded")
                return condition is not None and condition.observed_generation == generation

            await eventually(seen, timeout=PATIENCE)

        async def pruned() -> bool:
            found = await self.client.list(CONTROLLERREVISIONS, self.namespace)
            mine = [r for r in found if r.metadata.labels.get(labels.REVISION_OWNER) == name]
            assert len(mine) <= 10, len(mine)
            return max(r.revision for r in mine) >= 14

        await eventually(pruned, timeout=PATIENCE)

    async def restored(self, name: str) -> None:
        """What somebody edits or deletes is as it was."""
        account = service_account_name(name)
        another_version = {"metadata": {"annotations": {labels.APPLIED_HASH: "earlier"}}}
        edits: list[tuple[Resource[Any], str, dict[str, Any]]] = [
            (SERVICEACCOUNTS, account, {**another_version, "automountServiceAccountToken": True}),
            (ROLES, account, {"rules": []}),
            (ROLEBINDINGS, account, {"subjects": []}),
            (SERVICES, name, {"spec": {"selector": {labels.WORKSPACE: "stranger"}}}),
            (STATEFULSETS, name, {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}),
            (CONFIGMAPS, registry_ca_name(name), {"data": {KEY: "nobody"}}),
        ]
        for res, child, edit in edits:
            before = await self.raw(res, child)
            await self.client.patch(res, self.key(child), edit)

            async def again(res: Resource[Any] = res, child: str = child, wanted: Any = before) -> bool:
                found = await self.raw(res, child)
                for part in ("spec", "rules", "subjects", "automountServiceAccountToken", "data"):
                    assert found.get(part) == wanted.get(part), (res.plural, found.get(part), wanted.get(part))
                return True

            await eventually(again, timeout=PATIENCE)
        for res, child in ((SERVICES, name), (ROLES, account)):
            uid = (await self.find(res, child)).metadata.uid
            await self.client.delete(res, self.key(child))
            await self.replaced_by_another(res, child, uid)

    async def surplus(self, name: str) -> None:
        """What an earlier plan made and the present one does not want is removed."""
        owner = await self.client.get(WORKSPACES, self.key(name))
        metadata = {
            "namespace": self.namespace,
            "labels": {labels.MANAGED_BY: "kaito", labels.WORKSPACE: name},
            "annotations": {labels.APPLIED_HASH: "earlier"},
            "ownerReferences": [self.owner(owner)],
        }
        service = {"metadata": {**metadata, "name": headless_service_name(name)}, "spec": {"clusterIP": "None"}}
        fence = {"metadata": {**metadata, "name": network_policy_name(name)}, "spec": {"podSelector": {}}}
        await self.client.create(SERVICES, service)
        await self.client.create(NETWORKPOLICIES, fence)
        await self.gone(SERVICES, service["metadata"]["name"])
        await self.gone(NETWORKPOLICIES, fence["metadata"]["name"])

    @staticmethod
    def owner(workspace: Workspace) -> dict[str, Any]:
        meta = workspace.metadata
        owner = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "name": meta.name, "uid": meta.uid}
        return {**owner, "controller": True}

    async def left_by_an_earlier_version(self) -> None:
        """A StatefulSet and a Deployment of an earlier KAITO, owned by a Workspace that the controller is yet to see."""
        workspace = await self.apply("old", MANIFEST)
        selector = {labels.WORKSPACE: "old"}
        metadata = {"name": "old", "namespace": self.namespace, "labels": selector}
        metadata["ownerReferences"] = [self.owner(workspace)]
        container = {"name": "old", "image": "old"}
        template = {"metadata": {"labels": selector}, "spec": {"containers": [container]}}
        spec = {"selector": {"matchLabels": selector}, "template": template}
        await self.client.create(STATEFULSETS, {"metadata": metadata, "spec": {**spec, "serviceName": "other"}})
        await self.client.create(DEPLOYMENTS, {"metadata": metadata, "spec": spec})

    async def replaced(self, name: str) -> None:
        """Both are removed; the StatefulSet's pods are left to the new one."""
        await self.gone(DEPLOYMENTS, name)

        async def orphaned() -> str:
            found = await self.find(STATEFULSETS, name)
            return found.metadata.uid if found.metadata.deleting else ""

        uid = await eventually(orphaned, timeout=PATIENCE)
        await self.client.patch(STATEFULSETS, self.key(name), {"metadata": {"finalizers": None}})
        await self.replaced_by_another(STATEFULSETS, name, uid)

    async def swept(self) -> None:
        """A claim of a Workspace that is no more."""
        claim = (await self.client.list(self.claims))[0]
        raw = await self.raw(self.claims, claim.metadata.name)
        metadata = {"name": "dead", "labels": raw["metadata"]["labels"], "annotations": {labels.WORKSPACE_UID: "dead"}}
        await self.client.create(self.claims, {"metadata": metadata, "spec": raw["spec"]})
        await self.gone(self.claims, "dead")

    async def deleted(self) -> None:
        """Every Workspace ends, workload first, nodes last. A Job of a Workspace ends with it."""
        workspace = await self.client.get(WORKSPACES, self.key("phi"))
        metadata = {"name": "phi", "namespace": self.namespace, "labels": {labels.WORKSPACE: "phi"}}
        metadata["ownerReferences"] = [self.owner(workspace)]
        pod = {"spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}}
        await self.client.create(JOBS, {"metadata": metadata, "spec": {"template": pod}})
        found = await self.client.list(WORKSPACES, self.namespace)
        for workspace in found:
            await self.client.delete(WORKSPACES, workspace.metadata.key)
        for pod_ in await self.client.list(PODS, self.namespace):
            await self.client.delete(PODS, pod_.metadata.key, grace_seconds=0)
        for workspace in found:
            await self.gone(WORKSPACES, workspace.metadata.name)
        await self.gone(JOBS, "phi")
