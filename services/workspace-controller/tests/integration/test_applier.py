"""The applier with caches that know nothing: what stands on the apiserver is found before it is touched."""

from __future__ import annotations

from typing import Any

import pytest

from kaito_api import labels
from kaito_api.resources import NODECLAIMS, SERVICES, STATEFULSETS
from kubecore.clock import SystemClock
from kubecore.errors import AlreadyExists, Conflict
from workspace_controller.applied import stamped
from workspace_controller.applier import Applier, Stranger
from workspace_controller.decision import Decision, Delete
from workspace_controller.inference.metadata import owned_metadata
from workspace_controller.manifest import Manifest, manifest
from workspace_controller.observed import ChildId, Observed
from workspace_controller.process_settings import ProcessSettings
from workspace_controller.recent import Recent
from workspace_controller.settings import Settings
from workspace_controller.wiring import build_caches

pytestmark = pytest.mark.integration

BASE = """
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: phi}
resource:
  instanceType: Standard_NC6s_v3
  labelSelector: {matchLabels: {apps: phi}}
inference:
  preset: {name: phi-3-mini-4k-instruct}
"""
POD = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
SPEC = {"serviceName": "phi", "selector": {"matchLabels": {"a": "b"}}, "template": POD}


class Hands:
    """An applier whose informers were never started, for one Workspace."""

    def __init__(self, client: Any, workspace: Any) -> None:
        self.recent = Recent(SystemClock())
        self._applier = Applier(client, build_caches(client, Settings(), ProcessSettings()), self.recent)
        self.workspace = workspace
        self.observed = Observed(workspace=workspace)

    async def do(self, **parts: Any) -> None:
        await self._applier.apply(self.observed, Decision(**parts))

    def wanted(self, res: Any, **content: Any) -> Manifest:
        return stamped(manifest(res, owned_metadata(self.workspace, "phi"), **content))


@pytest.fixture
async def hands(cluster: Any) -> Hands:
    return Hands(cluster.client, await cluster.apply(BASE))


def claim(name: str, uid: str) -> Manifest:
    spec = {"nodeClassRef": {"group": "g", "kind": "k", "name": "n"}, "requirements": []}
    return manifest(NODECLAIMS, {"name": name, "annotations": {labels.WORKSPACE_UID: uid}}, spec=spec)


def stranger(cluster: Any, **content: Any) -> dict[str, Any]:
    return {"metadata": {"name": "phi", "namespace": cluster.namespace}, **content}


async def test_an_unknown_stranger_is_not_merged_into(cluster: Any, hands: Hands) -> None:
    before = await cluster.client.create(STATEFULSETS, stranger(cluster, spec=SPEC))
    with pytest.raises(Stranger):
        await hands.do(applies=(hands.wanted(STATEFULSETS, spec={**SPEC, "replicas": 3}),))
    assert ChildId("statefulsets", "phi") in hands.recent.strangers(hands.workspace.metadata.key)
    assert await cluster.find(STATEFULSETS, "phi") == before


async def test_a_stranger_met_while_creating_stops_the_claims(cluster: Any, hands: Hands) -> None:
    ports = {"ports": [{"port": 1}]}
    before = await cluster.client.create(SERVICES, stranger(cluster, spec=ports))
    with pytest.raises(Stranger):
        await hands.do(creates=(hands.wanted(SERVICES, spec=ports),), claims=(claim("w1", "any"),))
    assert await cluster.find(SERVICES, "phi") == before
    assert await cluster.client.list(NODECLAIMS) == []


async def test_our_own_that_no_cache_shows_yet_is_taken_in(cluster: Any, hands: Hands) -> None:
    service = hands.wanted(SERVICES, spec={"ports": [{"port": 1}]})
    first = hands.wanted(STATEFULSETS, spec=SPEC)
    await hands.do(creates=(service,), applies=(first,))
    before = await cluster.find(STATEFULSETS, "phi")
    await hands.do(creates=(service,), applies=(hands.wanted(STATEFULSETS, spec={**SPEC, "replicas": 2}),))
    after = await cluster.find(STATEFULSETS, "phi")
    assert (after.metadata.uid, after.spec.replicas) == (before.metadata.uid, 2)
    assert hands.recent.generations(hands.workspace.metadata.key)[after.metadata.uid] == after.metadata.generation


async def test_an_apply_never_recreates_what_was_replaced(cluster: Any, hands: Hands) -> None:
    """The object that the plan saw is gone: the apply carries its UID and conflicts instead of making another one."""
    await hands.do(applies=(hands.wanted(STATEFULSETS, spec=SPEC),))
    seen = await cluster.find(STATEFULSETS, "phi")
    hands.observed = Observed(workspace=hands.workspace, children={ChildId("statefulsets", "phi"): seen})
    await cluster.client.delete(STATEFULSETS, seen.metadata.key)
    with pytest.raises(Conflict):
        await hands.do(applies=(hands.wanted(STATEFULSETS, spec={**SPEC, "replicas": 2}),))
    assert await cluster.find(STATEFULSETS, "phi") is None


async def test_the_same_claim_twice_is_one_claim_and_another_s_is_refused(cluster: Any, hands: Hands) -> None:
    uid = hands.workspace.metadata.uid
    await hands.do(claims=(claim("w1", uid),))
    await hands.do(claims=(claim("w1", uid),))
    assert len(await cluster.client.list(NODECLAIMS)) == 1
    await cluster.client.create(NODECLAIMS, claim("w2", "another uid").body)
    with pytest.raises(AlreadyExists):
        await hands.do(claims=(claim("w2", uid),))


async def test_a_deletion_is_asked_for_once_and_never_of_a_namesake(cluster: Any, hands: Hands) -> None:
    await hands.do(applies=(hands.wanted(STATEFULSETS, spec=SPEC),))
    found = await cluster.find(STATEFULSETS, "phi")
    key, uid = found.metadata.key, found.metadata.uid
    with pytest.raises(Conflict):
        await hands.do(deletes=(Delete(resource=STATEFULSETS, key=key, uid="0d0c0b0a-0000-4000-8000-000000000000"),))
    await hands.do(deletes=(Delete(resource=STATEFULSETS, key=key, uid=uid),))
    assert await cluster.find(STATEFULSETS, "phi") is None
    assert hands.recent.deletion_asked(hands.workspace.metadata.key, uid)
