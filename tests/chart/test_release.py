"""A release from its installation to its end on a real apiserver of its own: what is kept, left alone, brought back.

No nodes run here, so no pod starts: this is about objects. The Job before `helm uninstall` is played: its program runs here.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kaito_local.binaries import ensure
from kaito_local.command import run
from kaito_local.controlplane import ControlPlane
from kaito_local.errors import CommandError
from kaito_local.kubectl import Kubectl
from kaito_local.run.chart import CHART
from kubecore.testing.asserts import eventually
from workspace_controller.webhook_certificate import issue

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
NAMESPACE = "kaito-system"
OURS, KARPENTERS = "workspaces.kaito.sh", "nodeclaims.karpenter.sh"
CONTROLLER = "workspace-controller"
HOOK = "workspace-controller.kaito.sh"
CHECK = "workspace-controller-uninstall"
WORKSPACE = """
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: phi, namespace: default, finalizers: [kaito.sh/test]}
resource: {instanceType: Standard_NC24ads_A100_v4, labelSelector: {matchLabels: {apps: phi}}}
inference: {preset: {name: phi-3-mini-4k-instruct}}
"""
CLAIM = """
apiVersion: karpenter.sh/v1
kind: NodeClaim
metadata: {name: ws-phi, labels: {kaito.sh/workspace: phi}}
spec:
  nodeClassRef: {group: kaito.sh, kind: KaitoNodeClass, name: default}
  requirements: [{key: node.kubernetes.io/instance-type, operator: In, values: [Standard_NC24ads_A100_v4]}]
"""


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    """An apiserver without our definitions, but with Karpenter's NodeClaim."""
    plane = ControlPlane(tmp_path / "plane", definitions=[ROOT / "crds" / "karpenter.sh_nodeclaims.yaml"])
    try:
        await plane.up()
        yield plane
    finally:
        await plane.down()


async def read(kubectl: Kubectl, *what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await kubectl("get", *what, "-o", "json"))
    return found


async def settled(kubectl: Kubectl) -> dict[str, Any] | None:
    """Karpenter's definition when the apiserver has written all of its status."""
    found = await read(kubectl, "crd", KARPENTERS)
    conditions = {each["type"]: each["status"] for each in found.get("status", {}).get("conditions", [])}
    return found if conditions == {"NamesAccepted": "True", "Established": "True"} else None


async def played(plane: ControlPlane, kubectl: Kubectl, run_pod: Any) -> tuple[int, str]:
    """Run the check's Job as kubelet and the Job controller would, and say in its status how it ended."""

    async def begun() -> dict[str, Any] | None:
        """The Job that has no end yet: that of an earlier refusal is replaced by Helm."""
        jobs = (await read(kubectl, "jobs", "-n", NAMESPACE))["items"]
        return next((job for job in jobs if not job.get("status", {}).get("conditions")), None)

    spec = (await eventually(begun, timeout=50))["spec"]["template"]["spec"]
    token = await kubectl("create", "token", spec["serviceAccountName"], "-n", NAMESPACE)
    ended = await run_pod(spec, url=plane.url, ca=plane.pki / "ca.crt", token=token)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    kinds = ("FailureTarget", "Failed") if ended[0] else ("SuccessCriteriaMet", "Complete")
    marks = [{"type": kind, "status": "True", "lastTransitionTime": now, "lastProbeTime": now} for kind in kinds]
    status = {"startTime": now, "conditions": marks, **({} if ended[0] else {"completionTime": now})}
    words = ("patch", "job", CHECK, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p")
    await kubectl(*words, json.dumps({"status": status}))
    return ended


async def test_a_release_from_install_to_uninstall(empty: ControlPlane, run_pod: Any) -> None:
    kubectl = await empty.kubectl()
    helm = (await ensure(("helm",)))["helm"]

    async def release(*words: str | Path) -> str:
        return await run(helm, *words, "--kubeconfig", empty.kubeconfig, "--namespace", NAMESPACE, timeout=120)

    async def uninstall() -> tuple[str, str]:
        """What Helm said, "" when it went well, and what the check printed."""
        async with asyncio.TaskGroup() as group:
            playing = group.create_task(played(empty, kubectl, run_pod))
            try:
                said = await release("uninstall", "kaito", "--timeout", "100s")
                assert 'release "kaito" uninstalled' in said
                return "", (await playing)[1]
            except CommandError as error:
                return str(error), (await playing)[1]

    karpenters = (await eventually(lambda: settled(kubectl), timeout=50))["metadata"]["resourceVersion"]
    await release("install", "kaito", CHART, "--create-namespace")
    await kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{OURS}")
    await kubectl("apply", "-f", "-", stdin=WORKSPACE)
    # What lives in the cluster meanwhile: a certificate that a replica has published.
    certificate = base64.b64encode(issue("h", "replica", datetime.now(UTC)).certificate).decode()
    published = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": certificate}]
    await kubectl("patch", "validatingwebhookconfiguration", HOOK, "--type=json", "-p", json.dumps(published))

    async def as_it_should_be(replicas: int) -> None:
        assert (await read(kubectl, "deployment", CONTROLLER, "-n", NAMESPACE))["spec"]["replicas"] == replicas
        hook = (await read(kubectl, "validatingwebhookconfiguration", HOOK))["webhooks"][0]
        assert hook["clientConfig"]["caBundle"] == certificate
        assert (await read(kubectl, "crd", KARPENTERS))["metadata"]["resourceVersion"] == karpenters

    await kubectl("apply", "-f", "-", stdin=CLAIM)
    with pytest.raises(
        CommandError, match="Workspaces have NodeClaims, such as ws-phi: this release would never delete them"
    ):
        await release("upgrade", "kaito", CHART, "--set", f"{CONTROLLER}.settings.claimApi=machine")
    await kubectl("delete", "nodeclaim", "ws-phi")
    await release("upgrade", "kaito", CHART, "--set", f"{CONTROLLER}.replicas=3")
    await as_it_should_be(3)
    await release("rollback", "kaito", "1")
    await as_it_should_be(2)
    said, words = await uninstall()
    assert f"{CHECK} failed" in said
    assert "Workspaces that are still there: default/phi.\n" in words
    await as_it_should_be(2)
    assert await identities(kubectl) == [], "the check's rights end with it"
    with pytest.raises(CommandError, match="no deployed releases"):
        await release("upgrade", "kaito", CHART)
    # The way back that the check names.
    revert = next(line.split() for line in words.splitlines() if "helm rollback" in line)
    await release(*revert[1:])
    await release("upgrade", "kaito", CHART)
    await as_it_should_be(2)
    await release("uninstall", "kaito", "--no-hooks")
    await uninstalled(kubectl)
    workspace = await read(kubectl, "workspace", "phi", "-n", "default")
    assert "deletionTimestamp" not in workspace["metadata"], "kept as it was: a new installation goes on with it"
    await release("install", "kaito", CHART)
    await as_reinstalled(kubectl)
    await kubectl("delete", "workspaces", "--all", "--all-namespaces", "--wait=false")
    said, words = await uninstall()
    assert f"{CHECK} failed" in said
    assert "default/phi (being deleted)" in words
    await kubectl(
        "patch", "workspace", "phi", "-n", "default", "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
    )
    assert await uninstall() == ("", "No Workspace and no claim is left.\n")
    await uninstalled(kubectl)


async def uninstalled(kubectl: Kubectl) -> None:
    """Nothing of the release is left but the definitions."""
    left = (await kubectl("get", "deployments,jobs,validatingadmissionpolicies", "-A", "-o", "name")).split()
    assert [name for name in left if "kaito" in name or (CONTROLLER in name and CHECK not in name)] == []
    roles = (await kubectl("get", "clusterroles", "-o", "name")).split()
    assert [name for name in roles if CONTROLLER in name] == []
    assert {OURS, KARPENTERS} <= set((await kubectl("get", "crd", "-o", "name")).replace("/", " ").split())


async def identities(kubectl: Kubectl) -> list[str]:
    """What the check's rights are made of."""
    kinds = "serviceaccounts,clusterroles,clusterrolebindings"
    return [name for name in (await kubectl("get", kinds, "-A", "-o", "name")).split() if name.endswith(f"/{CHECK}")]


async def as_reinstalled(kubectl: Kubectl) -> None:
    """The kept definition is taken over by the next installation, with the Workspaces in it."""
    definition = await read(kubectl, "crd", OURS)
    assert definition["metadata"]["annotations"]["meta.helm.sh/release-name"] == "kaito"
    assert (await read(kubectl, "workspace", "phi", "-n", "default"))["metadata"]["name"] == "phi"
