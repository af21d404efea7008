"""A release from its installation to its end on a real apiserver of its own: what is kept, left alone, brought back.

No nodes run here, so no pod starts: this is about objects.
"""

from __future__ import annotations

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
from kaito_local.kubectl import Kubectl
from kaito_local.run.chart import CHART
from workspace_controller.webhook_certificate import issue

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
NAMESPACE = "kaito-system"
OURS, KARPENTERS = "workspaces.kaito.sh", "nodeclaims.karpenter.sh"
CONTROLLER = "workspace-controller"
HOOK = "workspace-controller.kaito.sh"
WORKSPACE = """
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: phi, namespace: default, finalizers: [kaito.sh/test]}
resource: {instanceType: Standard_NC24ads_A100_v4, labelSelector: {matchLabels: {apps: phi}}}
inference: {preset: {name: phi-3-mini-4k-instruct}}
"""


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    """An apiserver without our definitions, but with Karpenter's NodeClaim."""
    plane = ControlPlane(tmp_path / "plane")
    try:
        await plane.up()
        kubectl = await plane.kubectl()
        await kubectl("delete", "-f", ROOT / "crds")
        await kubectl(
            "apply", "--server-side", "-f", ROOT / "crds" / f"karpenter.sh_{KARPENTERS.split('.', maxsplit=1)[0]}.yaml"
        )
        yield plane
    finally:
        await plane.down()


async def read(kubectl: Kubectl, *what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await kubectl("get", *what, "-o", "json"))
    return found


async def test_a_release_from_install_to_uninstall(empty: ControlPlane) -> None:
    kubectl = await empty.kubectl()
    helm = (await ensure(("helm",)))["helm"]

    async def release(*words: str | Path) -> str:
        return await run(helm, *words, "--kubeconfig", empty.kubeconfig, "--namespace", NAMESPACE, timeout=120)

    karpenters = (await read(kubectl, "crd", KARPENTERS))["metadata"]["resourceVersion"]
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

    await release("upgrade", "kaito", CHART, "--set", f"{CONTROLLER}.replicas=3")
    await as_it_should_be(3)
    await release("rollback", "kaito", "1")
    await as_it_should_be(2)
    await release("uninstall", "kaito")
    left = (await kubectl("get", "deployments,clusterroles,validatingadmissionpolicies", "-A", "-o", "name")).split()
    assert [name for name in left if "kaito" in name or CONTROLLER in name] == []
    assert {OURS, KARPENTERS} <= set((await kubectl("get", "crd", "-o", "name")).replace("/", " ").split())
    workspace = await read(kubectl, "workspace", "phi", "-n", "default")
    assert "deletionTimestamp" not in workspace["metadata"], "kept as it was: a new installation goes on with it"
    await release("install", "kaito", CHART)
    await as_reinstalled(kubectl)


async def as_reinstalled(kubectl: Kubectl) -> None:
    """The kept definition is taken over by the next installation, with the Workspaces in it."""
    definition = await read(kubectl, "crd", OURS)
    assert definition["metadata"]["annotations"]["meta.helm.sh/release-name"] == "kaito"
    assert (await read(kubectl, "workspace", "phi", "-n", "default"))["metadata"]["name"] == "phi"
