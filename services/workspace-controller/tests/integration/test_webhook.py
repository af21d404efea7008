"""A real apiserver asks our webhook: bad Workspaces are refused with our words, a new certificate is taken up."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from kaito_api.meta import Key, Resource
from kaito_api.workspace import Workspace
from kaito_local.ports import free_ports
from kubecore.errors import Invalid, ServerError
from kubecore.testing.asserts import eventually

pytestmark = pytest.mark.integration

CONFIGURATIONS = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    False,
    dict,
)
MANIFEST = yaml.safe_load("""
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: phi}
resource:
  instanceType: Standard_NC6s_v3
  labelSelector: {matchLabels: {apps: phi}}
inference:
  preset: {name: phi-99}
""")


def write_certificate(authority: trustme.CA, folder: Path) -> None:
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "tls.key")
    issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")


def configuration(port: int, authority: trustme.CA, namespace: str) -> dict[str, Any]:
    rule = {"apiGroups": ["kaito.sh"], "apiVersions": ["*"], "resources": ["workspaces"]}
    url = f"https://127.0.0.1:{port}/validate/workspace.kaito.sh"
    return {
        "metadata": {"name": f"kaito-{namespace}"},
        "webhooks": [
            {
                "name": "validation.workspace.kaito.sh",
                "rules": [{**rule, "operations": ["CREATE", "UPDATE"]}],
                "clientConfig": {"url": url, "caBundle": base64.b64encode(authority.cert_pem.bytes()).decode()},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "failurePolicy": "Fail",
            }
        ],
    }


async def test_the_apiserver_asks_and_renewed_certificates_are_served(
    cluster: Any, run_controller: Any, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    first, second = trustme.CA(), trustme.CA()
    write_certificate(first, tmp_path)
    key = Key("", f"kaito-{cluster.namespace}")
    async with run_controller(webhook_port=port, webhook_certificates=tmp_path):
        await eventually(lambda: listens(port), timeout=60)
        await cluster.client.create(CONFIGURATIONS, configuration(port, first, cluster.namespace))
        try:
            refusal = await eventually(lambda: refused(cluster, MANIFEST), timeout=60)
            assert "inference.preset.name" in refusal
            assert "did you mean" in refusal
            write_certificate(second, tmp_path)
            renewed = configuration(port, second, cluster.namespace)
            await cluster.client.patch(CONFIGURATIONS, key, {"webhooks": renewed["webhooks"]})
            again = {**MANIFEST, "metadata": {"name": "phi-again"}}
            await eventually(lambda: refused(cluster, again), timeout=60)
            good = {**MANIFEST, "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}}}
            assert isinstance(await cluster.apply(good), Workspace)
        finally:
            await cluster.client.delete(CONFIGURATIONS, key)


async def refused(cluster: Any, manifest: dict[str, Any]) -> str:
    """Return the words with which our webhook refuses; "" while the apiserver does not ask it yet, or cannot."""
    try:
        await cluster.apply(manifest)
    except Invalid as error:
        return str(error) if "validation.workspace.kaito.sh" in str(error) else ""
    except ServerError:  # the apiserver could not reach or trust the webhook yet
        return ""
    return ""


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
