"""Registries of a private authority: a setting that comes to Workspaces that stand, and changes under them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trustme

from kaito_api.core import ConfigMap
from kaito_api.meta import Resource
from kaito_api.resources import CONFIGMAPS
from kubecore.testing.asserts import eventually
from workspace_controller.inference.registry_ca import KEY
from workspace_controller.naming import registry_ca_name
from workspace_controller.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MANIFEST: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {"name": "phi"},
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "phi"}}},
    "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
}
WHOLE: Resource[Any] = Resource("apps", "v1", "statefulsets", "StatefulSet", True, dict)
NAME = registry_ca_name("phi")


def authority() -> str:
    return trustme.CA().cert_pem.bytes().decode()


async def holds(cluster: Any, wanted: str) -> None:
    async def check() -> bool:
        found: ConfigMap | None = await cluster.find(CONFIGMAPS, NAME)
        assert found is not None
        assert found.data == {KEY: wanted}
        return True

    await eventually(check, timeout=60)


async def test_it_reaches_workspaces_that_stand_and_restarts_none(
    cluster: Any, run_controller: Any, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(first := authority())
    await cluster.apply(MANIFEST)
    async with run_controller():
        await cluster.serve("phi")
        assert await cluster.find(CONFIGMAPS, NAME) is None

    async with run_controller(settings=Settings(registry_ca=str(file))):
        await holds(cluster, first)

        async def waits() -> bool:
            spec = (await cluster.client.get(WHOLE, cluster.key("phi")))["spec"]
            assert spec["updateStrategy"] == {"type": "OnDelete"}
            return "registry-ca" in {volume["name"] for volume in spec["template"]["spec"]["volumes"]}

        await eventually(waits)
        before = (await cluster.client.get(WHOLE, cluster.key("phi")))["metadata"]["generation"]
        file.write_text(second := authority())
        await holds(cluster, second)
        await cluster.client.patch(CONFIGMAPS, cluster.key(NAME), {"data": {KEY: "somebody's"}})
        await holds(cluster, second)
        await cluster.client.delete(CONFIGMAPS, cluster.key(NAME))
        await holds(cluster, second)
        assert (await cluster.client.get(WHOLE, cluster.key("phi")))["metadata"]["generation"] == before


async def test_a_namesake_is_left_alone_and_made_way_for(cluster: Any, run_controller: Any, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(wanted := authority())
    theirs = {"metadata": {"name": NAME, "namespace": cluster.namespace}, "data": {"theirs": "x"}}
    await cluster.client.create(CONFIGMAPS, theirs)
    await cluster.apply(MANIFEST)
    async with run_controller(settings=Settings(registry_ca=str(file))):
        condition = await cluster.becomes("phi", "WorkspaceSucceeded", "False", "NameTaken")
        assert NAME in condition.message
        await cluster.client.delete(CONFIGMAPS, cluster.key(NAME))
        await holds(cluster, wanted)
