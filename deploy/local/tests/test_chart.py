"""The umbrella chart: renders for every profile, is accepted by a real apiserver, and asks for no more than it needs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito_local.arm.cloud import Identity
from kaito_local.arm_command import Endpoint
from kaito_local.binaries import ensure
from kaito_local.cluster import SYSTEM_NODE
from kaito_local.command import run
from kaito_local.errors import CommandError
from kaito_local.pytest_plugin import ApiServer
from kaito_local.run.chart import CHART, LOCAL_PROFILE, local_values
from kaito_local.run.provisioner import chart_values

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SERVICES = ("workspace-controller", "gpu-provisioner", "model-server", "tuner", "adapter-packager")
IMAGES = {name: f"kaito.local/{name}:1" for name in SERVICES}
CONTROLLER = CHART / "charts" / "workspace-controller"
PROVISIONER = CHART / "charts" / "gpu-provisioner"


async def _render(chart: Path, *arguments: str | Path, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    helm = (await ensure(("helm",)))["helm"]
    words = ("template", "kaito", chart, "--namespace", "kaito-system", *arguments, "--values", "-")
    text = await run(helm, *words, stdin=json.dumps(values or {}))
    return [document for document in yaml.safe_load_all(text) if document]


def _local(tmp_path: Path) -> dict[str, Any]:
    """What `make run` installs."""
    certificate = tmp_path / "arm.pem"
    certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    there = Endpoint("https://10.200.0.1:7443", certificate, Identity())
    more = {"adapter_registry": "10.200.0.1:5051", "data_host": "10.200.0.1:5060"}
    values = local_values(IMAGES, "10.200.0.1:5050", "machine", node_selector=SYSTEM_NODE.labels, **more)
    values["gpu-provisioner"] |= chart_values(there)
    return values


def _of(objects: list[dict[str, Any]], kind: str, name: str = "workspace-controller") -> dict[str, Any]:
    (found,) = (each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def _arguments(objects: list[dict[str, Any]], name: str = "workspace-controller") -> list[str]:
    return _of(objects, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("chart", [CHART, CONTROLLER, PROVISIONER], ids=lambda chart: chart.name)
async def test_each_chart_is_installable_alone(chart: Path) -> None:
    helm = (await ensure(("helm",)))["helm"]
    await run(helm, "lint", "--strict", chart)
    kinds = {each["kind"] for each in await _render(chart)}
    assert {"Deployment", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "PodDisruptionBudget"} <= kinds


async def test_local_values_reach_the_processes(tmp_path: Path) -> None:
    objects = await _render(CHART, "--values", LOCAL_PROFILE, values=_local(tmp_path))
    controller = _of(objects, "Deployment")["spec"]
    assert controller["replicas"] == 2
    assert controller["template"]["spec"]["nodeSelector"]["kubernetes.azure.com/mode"] == "system"
    assert controller["template"]["spec"]["containers"][0]["image"] == IMAGES["workspace-controller"]
    for argument in (
        "--preset-registry=10.200.0.1:5050/presets",
        "--plain-http-hosts=10.200.0.1:5050,10.200.0.1:5051",
        "--tuner-images=cpu=kaito.local/tuner:1",
        "--packager-image=kaito.local/adapter-packager:1",
        "--data-hosts=10.200.0.1:5060",
        "--engine-images=cpu=kaito.local/model-server:1",
        "--engine-override=cpu",
        "--claim-api=machine",
        "--lease-namespace=kaito-system",
        "--required-policies=kaito-controller-grants,kaito-workload-reports",
    ):
        assert argument in _arguments(objects)
    assert "--endpoint=https://10.200.0.1:7443" in _arguments(objects, "gpu-provisioner")


async def test_the_controller_understands_every_flag_of_the_chart(tmp_path: Path) -> None:
    objects = await _render(CHART, "--values", LOCAL_PROFILE, values=_local(tmp_path))
    for service in ("workspace-controller", "gpu-provisioner"):
        known = await run(service, "--help")
        assert [word for word in _arguments(objects, service) if word.partition("=")[0] not in known] == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("workspace-controller.serviceAccount.name=kaito-controller", "serviceAccount/name"),
        ("workspace-controller.settings.claimApi=machines", "claimApi"),
        ("workspace-controller.image.digest=latest", "digest"),
        ("workspace-controller.replicas=0", "replicas"),
        ("workspace-controller.settings.unknown=1", "unknown"),
        ("typo.enabled=true", "typo"),
    ],
)
async def test_the_schema_refuses_nonsense_and_names_it(setting: str, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        await _render(CHART, "--set", setting)


async def test_a_digest_pins_the_image_and_a_mirror_prefixes_it() -> None:
    digest = "sha256:" + "a" * 64
    values = {
        "global": {"imageRegistry": "mirror.example/x", "imagePullSecrets": ["pull"]},
        "workspace-controller": {"image": {"digest": digest}},
    }
    pod = _of(await _render(CHART, values=values), "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"mirror.example/x/kaito/workspace-controller@{digest}"
    assert pod["imagePullSecrets"] == [{"name": "pull"}]


async def test_rights_leave_secrets_and_nodes_alone() -> None:
    objects = await _render(CHART)
    rules = [rule for each in objects if each["kind"] in {"ClusterRole", "Role"} for rule in each["rules"]]
    for rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert "secrets" not in rule["resources"]
        if {"nodes", "pods", "namespaces"} & set(rule["resources"]):
            assert set(rule["verbs"]) == {"list", "watch"}
        if {"bind", "escalate", "impersonate"} & set(rule["verbs"]):
            assert rule["resources"] == ["roles"]


async def test_definitions_and_policies_are_those_of_the_repository_and_outlive_the_release() -> None:
    objects = await _render(CHART)
    crds = [each for each in objects if each["kind"] == "CustomResourceDefinition"]
    assert {each["metadata"]["name"] for each in crds} == {
        "workspaces.kaito.sh",
        "nodeclaims.karpenter.sh",
        "machines.karpenter.sh",
    }
    assert {each["metadata"]["annotations"]["helm.sh/resource-policy"] for each in crds} == {"keep"}
    grants = _of(objects, "ValidatingAdmissionPolicy", "kaito-controller-grants")
    assert "system:serviceaccount:kaito-system:workspace-controller" in json.dumps(grants)
    off = await _render(
        CHART, "--set", "workspace-controller.crds.install=false,workspace-controller.policies.install=false"
    )
    assert not [each for each in off if each["kind"].startswith(("Custom", "ValidatingAdmission"))]
    assert not [word for word in _arguments(off) if word.startswith("--required-policies")]


async def test_a_real_apiserver_takes_all_of_it_and_its_pods_are_restricted(
    apiserver: ApiServer, namespace: str, tmp_path: Path
) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    await apiserver.kubectl("label", "namespace", namespace, label)
    objects = await _render(CHART, "--namespace", namespace, "--values", LOCAL_PROFILE, values=_local(tmp_path))
    # the last --namespace wins
    assert _of(objects, "Deployment")["metadata"]["namespace"] == namespace
    for each in [each for each in objects if each["kind"] == "Deployment"]:
        template = each["spec"]["template"]
        name = each["metadata"]["name"]
        metadata = {**template["metadata"], "name": name, "namespace": namespace}
        objects.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    words = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-o", "name", "-f", "-")
    taken = (await apiserver.kubectl(*words, stdin=bundle)).split()
    assert len(taken) == len(objects)
    assert {"pod/workspace-controller", "pod/gpu-provisioner"} <= set(taken)


async def test_definitions_of_others_are_left_alone(apiserver: ApiServer, namespace: str) -> None:
    """The session's apiserver has the definitions from kubectl: a release may neither adopt nor fail on them."""
    helm = (await ensure(("helm",)))["helm"]
    cluster = ("--kubeconfig", apiserver.kubeconfig, "--namespace", namespace)
    text = await run(helm, "install", "kaito", CHART, *cluster, "--dry-run=server", timeout=120)
    assert "kind: Deployment" in text
    assert "kind: CustomResourceDefinition" not in text
