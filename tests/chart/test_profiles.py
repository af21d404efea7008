"""Every profile of the umbrella chart: linted, judged by the schema, and accepted by a real apiserver as restricted pods.

Kinds of operators that do not run here (Prometheus', cert-manager's) are not sent; their shape is looked at instead.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito_local.binaries import ensure
from kaito_local.command import run
from kaito_local.errors import CommandError
from kaito_local.images.catalog import SERVICES
from kaito_local.images.values import image_values
from kaito_local.run.chart import CHART
from workspace_controller.__main__ import parse
from workspace_controller.catalog_files import load_catalog

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
PROFILES = sorted((CHART / "profiles").glob("*.yaml"))
MONITORED = ("monitoring.monitors.enabled=true", "monitoring.rules.enabled=true", "monitoring.dashboards.enabled=true")
AZURE = ("subscriptionId", "resourceGroup", "clusterName", "tenantId", "clientId")
FOREIGN = ("monitoring.coreos.com/", "cert-manager.io/")
CONTROLLER = "workspace-controller"


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods that the objects would make, and those that they are."""
    made = [each for each in objects if each["kind"] == "Pod"]
    for each in objects:
        if each["kind"] in {"Deployment", "Job"}:
            template, meta = each["spec"]["template"], each["metadata"]
            metadata = {**template["metadata"], "name": meta["name"], "namespace": meta["namespace"]}
            made.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    return made


def profile(path: Path) -> tuple[str, ...]:
    """The arguments with which a profile is installed."""
    azure = [f"gpu-provisioner.settings.azure.{field}=x" for field in AZURE] if path.stem == "aks" else []
    return ("--values", str(path), "--set", ",".join([*MONITORED, *azure]))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
async def test_a_profile_is_accepted(path: Path, apiserver: Any, namespace: str, render: Any) -> None:
    helm = (await ensure(("helm",)))["helm"]
    await run(helm, "lint", "--strict", CHART, *profile(path))
    label = "pod-security.kubernetes.io/enforce=restricted"
    await apiserver.kubectl("label", "namespace", namespace, label)
    objects = await render(*profile(path), namespace=namespace)
    sent = [each for each in objects if not each["apiVersion"].startswith(FOREIGN) and each["kind"] != "Pod"]
    sent += pods(objects)
    bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": sent})
    words = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-o", "name", "-f", "-")
    taken = (await apiserver.kubectl(*words, stdin=bundle)).split()
    assert len(taken) == len(sent)
    wanted = {f"pod/{CONTROLLER}", "pod/kaito-test", f"pod/{CONTROLLER}-uninstall"} | (
        {"pod/gpu-provisioner"} if path.stem == "aks" else set()
    )
    assert {name for name in taken if name.startswith("pod/")} == wanted


async def test_a_pod_that_is_not_restricted_is_refused(apiserver: Any, namespace: str, render: Any) -> None:
    """The namespace of these tests does enforce: the same pod without its security context does not pass."""
    label = "pod-security.kubernetes.io/enforce=restricted"
    await apiserver.kubectl("label", "namespace", namespace, label)
    pod = pods(await render(namespace=namespace))[0]
    del pod["spec"]["securityContext"]
    with pytest.raises(Exception, match="violates PodSecurity"):
        await apiserver.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


async def test_everything_comes_from_the_one_registry_of_the_air_gapped_profile(render: Any) -> None:
    """Whatever name the registry has, every image that is run or planned, and the weights, come from below it."""
    mirror = "mirror.example:5000/deep/kaito"
    objects = await render(
        "--values",
        CHART / "profiles" / "air-gapped.yaml",
        "--set",
        f"global.imageRegistry={mirror},{CONTROLLER}.settings.presetRegistry={mirror}/presets",
        "--set",
        "gpu-provisioner.enabled=true",
    )
    images = [container["image"] for pod in pods(objects) for container in pod["spec"]["containers"]]
    (arguments,) = [
        each["spec"]["template"]["spec"]["containers"][0]["args"]
        for each in objects
        if each["kind"] == "Deployment" and each["metadata"]["name"] == CONTROLLER
    ]
    settings, _ = parse(arguments, {})
    catalog = load_catalog(None).mirrored(settings.image_registry)
    images += [settings.tuning.packager_image, settings.preset_registry]
    images += [image for engine in catalog.engines for image in (engine.image, engine.tuner_image)]
    assert len(images) >= 10
    assert [image for image in images if not image.startswith(f"{mirror}/")] == []
    assert settings.weights_from == "oci"


async def test_images_made_and_pushed_by_kaito_local_are_named_as_they_were_pushed(render: Any, tmp_path: Path) -> None:
    pushed = {name: f"mirror.example:5000/deep/{name}:0.1.0-0123456789ab" for name in SERVICES}
    (tmp_path / "images.yaml").write_text(yaml.safe_dump(image_values(pushed)))
    files = ("--values", CHART / "profiles" / "air-gapped.yaml", "--values", tmp_path / "images.yaml")
    objects = await render(*files, "--set", "gpu-provisioner.enabled=true")
    images = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Deployment"}
    for name in (CONTROLLER, "gpu-provisioner"):
        assert images[name]["spec"]["template"]["spec"]["containers"][0]["image"] == pushed[name]
    settings = _planning(objects)
    assert settings.engine_images == {"cpu": pushed["model-server"]}
    assert settings.tuning.images == {"cpu": pushed["tuner"]}
    assert settings.tuning.packager_image == pushed["adapter-packager"]


async def test_upgrades_that_touch_only_the_controllers_change_no_workload_setting(render: Any) -> None:
    """What a pod of a Workspace is made from does not depend on the chart's own version, image, replicas or monitoring."""
    base = _planning(await render())
    changed = await render(
        "--set",
        f"{CONTROLLER}.image.tag=9.9.9,{CONTROLLER}.replicas=3,{CONTROLLER}.webhook.enabled=false,"
        f"{CONTROLLER}.podLabels.team=x,{CONTROLLER}.networkPolicy.enabled=false,{','.join(MONITORED)}",
    )
    assert _planning(changed) == base


def _planning(objects: list[dict[str, Any]]) -> Any:
    (deployment,) = [e for e in objects if e["kind"] == "Deployment" and e["metadata"]["name"] == CONTROLLER]
    settings, _ = parse(deployment["spec"]["template"]["spec"]["containers"][0]["args"], {})
    return settings


async def test_two_replicas_that_survive_drains_and_spread(render: Any) -> None:
    objects = await render("--set", "gpu-provisioner.enabled=true")
    for name in (CONTROLLER, "gpu-provisioner"):
        mine = {each["kind"]: each for each in objects if each["metadata"]["name"] == name}
        spec = mine["Deployment"]["spec"]
        pod = spec["template"]["spec"]
        assert spec["replicas"] == 2
        assert mine["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
        assert pod["topologySpreadConstraints"][0]["topologyKey"] == "kubernetes.io/hostname"
        assert pod["priorityClassName"] == "system-cluster-critical"
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= pod["containers"][0].keys()
        assert "--leader-elect=false" not in pod["containers"][0]["args"]
        assert mine["NetworkPolicy"]["spec"]["podSelector"] == {"matchLabels": spec["selector"]["matchLabels"]}
        ports = {port["name"] for port in pod["containers"][0]["ports"]}
        opened = {p["port"] for rule in mine["NetworkPolicy"]["spec"]["ingress"] for p in rule["ports"]}
        assert opened == ports, "what listens is open, and nothing else"


async def test_traces_go_where_the_values_say_and_nowhere_by_default(render: Any) -> None:
    def variables(objects: list[dict[str, Any]]) -> dict[str, str]:
        (spec,) = [pod["spec"] for pod in pods(objects) if pod["metadata"]["name"] == CONTROLLER]
        return {entry["name"]: entry.get("value", "") for entry in spec["containers"][0]["env"]}

    assert not parse([], variables(await render()))[1].traces
    name, value = "OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"
    key = f"{CONTROLLER}.tracing.env[0]"
    words = f"{CONTROLLER}.tracing.endpoint=http://collector:4318,{key}.name={name},{key}.value={value}"
    found = variables(await render("--set", words))
    assert (found["OTEL_EXPORTER_OTLP_ENDPOINT"], found[name]) == ("http://collector:4318", value)
    assert parse([], found)[1].traces


async def test_a_private_authority_is_mounted_with_the_rights_that_it_takes(
    apiserver: Any, namespace: str, render: Any
) -> None:
    """And by default there is neither."""
    set_ = (
        "--set",
        f"global.registryCA.configMap=corp,global.registryCA.key=root.pem,{CONTROLLER}.settings.trustedRealms={{a,b}}",
    )
    helm = (await ensure(("helm",)))["helm"]
    await run(helm, "lint", "--strict", CHART, *set_)
    objects = await render(*set_, namespace=namespace)
    (pod,) = [each for each in pods(objects) if each["metadata"]["name"] == CONTROLLER]
    settings = _planning(objects)
    (mount,) = [
        m for m in pod["spec"]["containers"][0]["volumeMounts"] if settings.registry_ca.startswith(m["mountPath"])
    ]
    (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == mount["name"]]
    file = settings.registry_ca.removeprefix(f"{mount['mountPath']}/")
    assert volume["configMap"] == {"name": "corp", "items": [{"key": "root.pem", "path": file}]}
    assert mount["readOnly"] is True
    assert "subPath" not in mount, "kubelet renews no such file"
    assert settings.trusted_realms == {"a", "b"}
    await apiserver.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    assert _config_map_verbs(objects) == {"list", "watch", "get", "create", "patch"}
    plain = await render(namespace=namespace)
    assert (_planning(plain).registry_ca, _planning(plain).trusted_realms) == ("", frozenset())
    assert _config_map_verbs(plain) == {"list", "watch"}
    with pytest.raises(CommandError, match="registryCA"):
        await render("--set", "global.registryCA.name=corp")


def _config_map_verbs(objects: list[dict[str, Any]]) -> set[str]:
    rules = [rule for each in objects if each["kind"] == "ClusterRole" for rule in each["rules"]]
    return {verb for rule in rules if "configmaps" in rule["resources"] for verb in rule["verbs"]}


@pytest.mark.parametrize("issuer", ["", "corporate"])
async def test_cert_manager_instead_of_own_certificates(render: Any, issuer: str) -> None:
    values = f"{CONTROLLER}.webhook.certificates=cert-manager,{CONTROLLER}.webhook.issuer.name={issuer}"
    objects = await render("--set", values)
    of = {
        each["kind"]: each
        for each in objects
        if "webhook" in each["metadata"]["name"] or "kaito.sh" in each["metadata"]["name"]
    }
    assert of["Certificate"]["spec"]["dnsNames"] == ["workspace-controller-webhook.kaito-system.svc"]
    assert ("Issuer" in of) == (not issuer)
    assert of["Certificate"]["spec"]["issuerRef"]["name"] == (issuer or "workspace-controller-webhook")
    injected = of["ValidatingWebhookConfiguration"]["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    assert injected == "kaito-system/workspace-controller-webhook"
    (deployment,) = [each for each in objects if each["kind"] == "Deployment"]
    text = json.dumps(deployment)
    assert "--webhook-configuration" not in text
    assert "/tls" in text
    rules = [rule for each in objects if each["kind"] == "ClusterRole" for rule in each["rules"]]
    assert not [rule for rule in rules if "validatingwebhookconfigurations" in rule["resources"]]


async def test_monitoring_objects_name_what_is_there(render: Any) -> None:
    objects = await render("--set", ",".join(MONITORED), "--set", "gpu-provisioner.enabled=true")
    (monitor,) = [each for each in objects if each["kind"] == "ServiceMonitor"]
    assert all(each["honorLabels"] for each in monitor["spec"]["endpoints"]), "a Workspace's metrics keep its namespace"
    services = [
        each
        for each in objects
        if each["kind"] == "Service"
        and monitor["spec"]["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
        and "metrics" in {port["name"] for port in each["spec"]["ports"]}
    ]
    assert {each["metadata"]["name"] for each in services} == {f"{CONTROLLER}-metrics", "gpu-provisioner-metrics"}
    (podmonitor,) = [each for each in objects if each["kind"] == "PodMonitor"]
    dropped = {
        endpoint["port"]: [rule["regex"] for rule in endpoint["relabelings"] if rule.get("action") == "labeldrop"]
        for endpoint in podmonitor["spec"]["podMetricsEndpoints"]
    }
    assert dropped == {"http": [], "metrics": ["container"]}, "tuner and packager have one port: one target, not two"
    (rules,) = [each for each in objects if each["kind"] == "PrometheusRule"]
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in (ROOT / "docs" / "troubleshooting.md").read_text().splitlines()
        if line.startswith("#")
    }
    alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    assert alerts
    for alert in alerts:
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert page == "docs/troubleshooting.md"
        assert anchor in anchors, f"{alert['alert']}: no entry {anchor!r} in docs/troubleshooting.md"
    boards = [each for each in objects if each["metadata"]["name"].startswith("kaito-dashboard-")]
    assert len(boards) == 5
    for board in boards:
        for content in board["data"].values():
            assert json.loads(content)["panels"]


async def test_definitions_of_the_chart_match_the_claims_that_are_asked_for(render: Any) -> None:
    """The role follows the setting: rights on the other kind of claim are not granted."""
    for api, other in (("nodeclaim", "machines"), ("machine", "nodeclaims")):
        objects = await render("--set", f"{CONTROLLER}.settings.claimApi={api}")
        roles = [each for each in objects if each["kind"] == "ClusterRole"]
        assert len(roles) == 2, "the controller's, and that of the check before helm uninstall"
        assert other not in {resource for role in roles for rule in role["rules"] for resource in rule["resources"]}


async def test_each_definition_can_be_left_to_somebody_else(render: Any) -> None:
    """Nothing can be looked up in a rendering without a cluster (Argo CD), so that Karpenter's own would be overwritten there."""
    kinds = {
        "workspaces": "workspaces.kaito.sh",
        "nodeclaims": "nodeclaims.karpenter.sh",
        "machines": "machines.karpenter.sh",
    }

    def names(objects: list[dict[str, Any]]) -> set[str]:
        return {each["metadata"]["name"] for each in objects if each["kind"] == "CustomResourceDefinition"}

    for plural, name in kinds.items():
        assert names(await render("--set", f"{CONTROLLER}.crds.{plural}=never")) == {*kinds.values()} - {name}
        assert names(await render("--set", f"{CONTROLLER}.crds.{plural}=always")) == {*kinds.values()}
    assert names(await render("--set", f"{CONTROLLER}.crds.install=false,{CONTROLLER}.crds.nodeclaims=always")) == set()
    with pytest.raises(CommandError, match="nodeclaims"):
        await render("--set", f"{CONTROLLER}.crds.nodeclaims=sometimes")
