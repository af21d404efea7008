"""The control plane on this machine: RBAC, admission, restart, namespaces that go away."""

import json
from pathlib import Path

import pytest

from kaito_local.binaries import ensure
from kaito_local.certificates import CertificateAuthority
from kaito_local.errors import CommandError
from kaito_local.kubeconfig import write_kubeconfig
from kaito_local.kubectl import Kubectl
from kaito_local.namespaces import NamespacePurger
from kaito_local.pytest_plugin import ApiServer
from kubecore.testing.asserts import eventually

pytestmark = pytest.mark.integration

PRIVILEGED_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "privileged"},
    "spec": {"containers": [{"name": "c", "image": "c", "securityContext": {"privileged": True}}]},
}


async def test_rbac_refuses_a_user_without_a_role(apiserver: ApiServer, namespace: str, tmp_path: Path) -> None:
    authority = CertificateAuthority(apiserver.state_dir / "pki")
    nobody = write_kubeconfig(tmp_path / "nobody.kubeconfig", apiserver.url, authority, "nobody")
    kubectl = Kubectl((await ensure(("kubectl",)))["kubectl"], nobody)
    with pytest.raises(CommandError, match='User "nobody" cannot list resource "pods"'):
        await kubectl("get", "pods", "-n", namespace)


async def test_pod_security_refuses_what_a_restricted_namespace_must_not_run(
    apiserver: ApiServer, namespace: str
) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    await apiserver.kubectl("label", "namespace", namespace, label)

    async def refused() -> str:
        """What admission says; it learns of the label through a watch."""
        words = ("create", "--dry-run=server", "-n", namespace, "-f", "-")
        try:
            await apiserver.kubectl(*words, stdin=json.dumps(PRIVILEGED_POD))
        except CommandError as error:
            return str(error)
        return ""

    assert 'violates PodSecurity "restricted:latest"' in await eventually(refused)


async def test_the_version_is_the_pinned_one(apiserver: ApiServer) -> None:
    versions = json.loads(await apiserver.kubectl("version", "-o", "json"))
    assert versions["serverVersion"]["gitVersion"] == versions["clientVersion"]["gitVersion"]
    assert versions["serverVersion"]["gitVersion"].startswith("v1.")


async def test_a_restart_keeps_data_and_address(apiserver: ApiServer, namespace: str) -> None:
    await apiserver.kubectl("create", "configmap", "kept", "-n", namespace, "--from-literal=a=1")
    await apiserver.restart()
    assert await apiserver.kubectl("get", "configmap", "kept", "-n", namespace, "-o", "jsonpath={.data.a}") == "1"


async def test_a_purged_namespace_takes_objects_with_finalizers_along(apiserver: ApiServer) -> None:
    await apiserver.kubectl("create", "namespace", "held")
    held = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "held", "finalizers": ["example.com/never-removed"]},
    }
    await apiserver.kubectl("create", "-n", "held", "-f", "-", stdin=json.dumps(held))
    await NamespacePurger(apiserver.url, apiserver.state_dir / "pki").purge("held")
    assert await apiserver.kubectl("get", "namespace", "held", "--ignore-not-found") == ""
    assert await apiserver.kubectl("get", "configmaps", "-n", "held", "-o", "name") == ""
