"""The workspace-controller under its own ServiceAccount and the chart's own roles: every right is used, none is missing.

What it asked for is read from the apiserver's audit log. Rights that no request shows (what admission asks for on the way) are
taken away one by one: the same writes are refused then.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from security_flows import ADAPTER, MANIFEST, POLICIES, RELEASE, SERVICE, Flows, controller

from kaito_api.meta import Key
from kaito_api.resources import MACHINES, NODECLAIMS, ROLES, WORKSPACES
from kaito_api.workspace import Workspace
from kaito_local.claims import claim_stand_in
from kaito_local.nodes.backends import ReadyNodes
from kubecore.client import Client
from kubecore.clock import SystemClock
from kubecore.config import load_config
from kubecore.errors import Forbidden
from kubecore.events import EventRecorder
from kubecore.testing.asserts import eventually
from kubecore.transport import Transport
from workspace_controller.applier import Applier
from workspace_controller.catalog_files import load_catalog
from workspace_controller.observe import Observer
from workspace_controller.plan import plan
from workspace_controller.process_settings import ProcessSettings
from workspace_controller.recent import Recent
from workspace_controller.registry_ca_file import RegistryCaFile
from workspace_controller.revision import plan_revision
from workspace_controller.settings import ClaimApi, Settings
from workspace_controller.wiring import build_caches

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

INDIRECT = {
    "escalate roles.rbac.authorization.k8s.io",
    "bind roles.rbac.authorization.k8s.io",
    "update workspaces/finalizers.kaito.sh",
}
"""Asked for by admission while something else is written; test_what_no_request_shows takes each of them away."""


async def lagging(kubeconfig: Path, settings: Settings, workspace: Key) -> None:
    """A replica whose caches have seen nothing plans and writes: everything is there already, and is read instead."""
    async with Transport(load_config(str(kubeconfig)), user_agent=SERVICE, field_manager=SERVICE) as link:
        client = Client(link)
        caches = build_caches(client, settings, ProcessSettings())
        clock = SystemClock()
        recent = Recent(clock)
        registry_ca = RegistryCaFile(settings.registry_ca, clock)
        observer = Observer(caches, recent, registry_ca=registry_ca.text)
        observed = observer.observe(await client.get(WORKSPACES, workspace))
        served = msgspec.structs.replace(observed, claim_api_served=True)
        decision = plan(served, load_catalog(None), settings, clock.now())
        assert decision.creates
        assert decision.claims
        revision = plan_revision(served.workspace, ()).create
        assert revision is not None
        applier = Applier(client, caches, recent)
        await applier.apply(served, decision)
        await applier.finish(served.workspace, msgspec.structs.replace(decision, history=(revision,)))


async def repeated_event(kubeconfig: Path, workspace: Workspace) -> None:
    """The same thing happens again after the window: the first Event counts it."""
    async with Transport(load_config(str(kubeconfig)), user_agent=SERVICE) as link:
        recorder = EventRecorder(Client(link), SERVICE, window=0)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(recorder.run())
            for _ in range(2):
                recorder.record(workspace, WORKSPACES, "Normal", "Twice", "It happened.")
                await recorder.flush(30)
            sending.cancel()


@pytest.mark.parametrize(("api", "claims"), [("nodeclaim", NODECLAIMS), ("machine", MACHINES)])
async def test_every_right_is_used_and_none_is_missing(
    apiserver: Any,
    render: Any,
    log_in: Any,
    client: Client,
    restricted: str,
    api: str,
    claims: Any,
    release_of: Any,
    tmp_path: Path,
) -> None:
    objects = await render(
        "--set",
        f"{SERVICE}.settings.claimApi={api},{SERVICE}.webhook.enabled=false,global.registryCA.configMap=ca",
        namespace=RELEASE,
    )
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    async with release_of(objects) as release:
        kubeconfig = await log_in(RELEASE, SERVICE)
        settings = Settings(claim_api=ClaimApi(api), registry_ca=str(tmp_path / "ca.pem"))
        flows = Flows(client, restricted, claims)
        await flows.left_by_an_earlier_version()
        async with claim_stand_in(client, ReadyNodes(client), claims), controller(kubeconfig, settings):
            await flows.strangers()
            await flows.serve("phi", MANIFEST | {"inference": MANIFEST["inference"] | {"adapters": [ADAPTER]}})
            await flows.serve("two", MANIFEST)
            await flows.tune("tuned")
            await flows.history("phi")
            await flows.restored("two")
            await flows.surplus("phi")
            await flows.replaced("old")
            await repeated_event(kubeconfig, await client.get(WORKSPACES, Key(restricted, "phi")))
            await lagging(kubeconfig, settings, Key(restricted, "two"))
            await flows.swept()
            await flows.deleted()
        record = await release.whole_record(SERVICE, but=INDIRECT)
        assert not record.denied
        assert not {str(right) for right in record.used - release.granted(SERVICE)}


@pytest.mark.parametrize("missing", sorted(INDIRECT))
async def test_what_no_request_shows(
    apiserver: Any, render: Any, log_in: Any, client: Client, restricted: str, missing: str, release_of: Any
) -> None:
    """Without that one right the writes of a plan are refused; with it they are accepted."""
    objects = await render(namespace=RELEASE)
    verb, resource = missing.split()
    resource, _, group = resource.partition(".")
    async with release_of(objects) as release:
        settings = Settings()
        flows = Flows(client, restricted, NODECLAIMS)
        await flows.apply("phi", MANIFEST | {"inference": MANIFEST["inference"] | {"adapters": [ADAPTER]}})
        kubeconfig = await log_in(RELEASE, SERVICE)
        await first_writes(client, kubeconfig, settings, Key(restricted, "phi"))
        role = next(each for each in release.objects if each["kind"] == "ClusterRole")
        for rule in role["rules"]:
            if rule["apiGroups"] == [group] and rule["resources"] == [resource]:
                rule["verbs"].remove(verb)
        role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]
        await apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(role))

        async def refused() -> bool:
            """The authorizer learns of the narrower role through its own watch."""
            try:
                await first_writes(client, kubeconfig, settings, Key(restricted, "phi"))
            except Forbidden:
                return True
            return False

        await eventually(refused, timeout=30)


async def first_writes(admin: Client, kubeconfig: Path, settings: Settings, workspace: Key) -> None:
    """Write ServiceAccount, Role, RoleBinding and Service of a new Workspace, and take them away again."""
    async with Transport(load_config(str(kubeconfig)), user_agent=SERVICE) as link:
        client = Client(link)
        caches = build_caches(client, settings, ProcessSettings())
        found = Observer(caches, Recent(SystemClock())).observe(await client.get(WORKSPACES, workspace))
        decision = plan(
            msgspec.structs.replace(found, claim_api_served=True), load_catalog(None), settings, SystemClock().now()
        )
        assert ROLES in {manifest.resource for manifest in decision.creates}
        try:
            for manifest in decision.creates:
                await client.create(manifest.resource, manifest.body)
        finally:
            for manifest in decision.creates:
                await admin.delete(manifest.resource, manifest.key)


async def test_no_rights_are_granted_while_a_policy_does_not_deny(
    apiserver: Any, render: Any, log_in: Any, client: Client, restricted: str, release_of: Any
) -> None:
    """The policies stand, and one binding only warns: that is no fence. It is seen by a watch, both ways."""
    objects = await render(namespace=RELEASE)
    (binding,) = [
        each
        for each in objects
        if each["kind"] == "ValidatingAdmissionPolicyBinding" and each["spec"]["policyName"] == POLICIES[1]
    ]
    weak = {**binding, "spec": {**binding["spec"], "validationActions": ["Warn"]}}
    apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    async with release_of(objects):
        await apiserver.kubectl(*apply, stdin=json.dumps(weak))
        flows = Flows(client, restricted, NODECLAIMS)
        await flows.apply("phi", MANIFEST)
        async with controller(await log_in(RELEASE, SERVICE), Settings()):
            await flows.until("phi", "WorkspaceSucceeded", "AdmissionPolicyMissing")
            assert await client.list(ROLES, restricted) == []
            await apiserver.kubectl(*apply, stdin=json.dumps(binding))

            async def granted() -> bool:
                return bool(await client.list(ROLES, restricted))

            await eventually(granted, timeout=60)
            await client.delete(WORKSPACES, Key(restricted, "phi"))
            await flows.gone(WORKSPACES, "phi")
