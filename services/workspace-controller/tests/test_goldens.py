"""Whole plans, readable: the first document of each golden file is the Workspace, the others are what is made for it.

`UPDATE_GOLDENS=1 pytest ...` writes the plans anew; read the diff before you keep it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from kaito_api.core import Node
from kaito_api.workspace import Workspace
from workspace_controller.catalog import Catalog
from workspace_controller.inference import plan_inference
from workspace_controller.inference_config import CONFIG_KEY, ConfigSource
from workspace_controller.manifest import Manifest
from workspace_controller.nodes import plan_nodes
from workspace_controller.observed import Observed
from workspace_controller.settings import ClaimApi, Settings, TuningSettings
from workspace_controller.tuning import plan_tuning
from workspace_controller.tuning.config import CONFIG_KEY as TRAINING_KEY
from workspace_controller.tuning.run import present_run
from workspace_controller.validation import validate

GOLDENS = Path(__file__).parent / "goldens"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LOCAL = Settings(
    preset_registry="10.0.0.1:5000/kaito",
    plain_http_hosts=frozenset({"10.0.0.1:5000"}),
    engine_override="cpu",
    engine_images={"cpu": "kaito.local/model-server@sha256:" + "c" * 64},
)
TUNING_LOCAL = msgspec.structs.replace(
    LOCAL,
    tuning=TuningSettings(
        images={"cpu": "kaito.local/tuner@sha256:" + "d" * 64},
        packager_image="kaito.local/adapter-packager@sha256:" + "e" * 64,
        cpu="2",
        memory="4Gi",
        data_hosts=("10.0.0.1:8000",),
    ),
)
PRIVATE = Settings(preset_registry="registry.corp/kaito", trusted_realms=frozenset({"login.corp:8443"}))
AUTHORITY = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
CASES: dict[str, Settings] = {
    "adapters": Settings(),
    "api-keys": Settings(),
    "bring-your-own": Settings(),
    "hugging-face": Settings(weights_from="hf"),
    "local-mode": LOCAL,
    "machine-api": Settings(claim_api=ClaimApi.MACHINE),
    "node-disk-weights": Settings(),
    "phi-3-on-v100": Settings(),
    "phi-4-on-two-a10": Settings(),
    "private-authority": PRIVATE,
    "template": Settings(),
    "tuning-dry-run": Settings(),
    "tuning-four-gpus-to-a-volume": Settings(),
    "tuning-local-mode": TUNING_LOCAL,
    "tuning-phi-3-qlora": Settings(),
    "tuning-private-authority": PRIVATE,
    "volume-weights": Settings(),
}
TUNING = sorted(name for name in CASES if name.startswith("tuning"))
CONFIG = ConfigSource(
    found=True,
    data={
        CONFIG_KEY: "vllm:\n  max-model-len: 4096\n",
        TRAINING_KEY: "training_config:\n  LoraConfig: {r: 32}\n",
    },
)


def byo_node() -> Node:
    labels = {
        "apps": "phi-3",
        "nvidia.com/gpu.product": "NVIDIA-A100-80GB-PCIe",
        "nvidia.com/gpu.count": "2",
        "nvidia.com/gpu.memory": "81920",
        "nvidia.com/gpu.compute.major": "8",
        "nvidia.com/gpu.compute.minor": "0",
    }
    status = {"allocatable": {"nvidia.com/gpu": "2"}, "conditions": [{"type": "Ready", "status": "True"}]}
    return msgspec.convert({"metadata": {"name": "mine", "labels": labels}, "status": status}, Node)


def planned(given: dict[str, Any], catalog: Catalog, settings: Settings) -> tuple[Manifest, ...]:
    more: dict[str, Any] = {"revision": 3, "registry_ca": AUTHORITY if settings is PRIVATE else ""}
    workspace = msgspec.convert(given, Workspace)
    nodes = [byo_node()] if workspace.resource is not None and not workspace.resource.instance_type else []
    config = CONFIG if (workspace.inference or workspace.tuning).config else None
    verdict = validate(workspace, catalog, settings, config=config, nodes=nodes)
    assert verdict.sizing is not None, verdict.errors
    claims = plan_nodes(workspace, nodes, [], verdict.sizing, settings, NOW).creates
    if workspace.tuning is not None:
        run = present_run(Observed(workspace=workspace, config=config)).name
        return (*claims, *plan_tuning(workspace, config, verdict.sizing, settings, run=run, **more))
    return (*claims, *plan_inference(workspace, config, verdict.sizing, settings, **more))


@pytest.mark.parametrize(("name", "settings"), CASES.items(), ids=CASES.keys())
def test_golden(name: str, settings: Settings, catalog: Catalog) -> None:
    file = GOLDENS / f"{name}.yaml"
    given, *expected = yaml.safe_load_all(file.read_text())
    found = [manifest.body for manifest in planned(given, catalog, settings)]
    if os.environ.get("UPDATE_GOLDENS"):
        file.write_text(yaml.safe_dump_all([given, *yaml.safe_load_all(dump(found))], sort_keys=False, width=120))
    else:
        assert found == expected


def dump(documents: list[dict[str, Any]]) -> str:
    """Without YAML anchors for values that occur twice."""
    return "\n---\n".join(msgspec.json.encode(document).decode() for document in documents)


@pytest.mark.parametrize(("name", "settings"), CASES.items(), ids=CASES.keys())
def test_planning_twice_gives_the_same_bytes(name: str, settings: Settings, catalog: Catalog) -> None:
    given = next(yaml.safe_load_all((GOLDENS / f"{name}.yaml").read_text()))
    once, again = (dump([m.body for m in planned(given, catalog, settings)]) for _ in range(2))
    assert once == again


def test_every_golden_has_a_case() -> None:
    assert {file.stem for file in GOLDENS.glob("*.yaml")} == set(CASES)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"template", "node-disk-weights"}))
def test_pods_of_presets_keep_the_restricted_pod_security_standard(name: str) -> None:
    pods = [d["spec"]["template"]["spec"] for d in documents(name) if d["kind"] in {"StatefulSet", "Job"}]
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all("hostPath" not in volume for volume in pod["volumes"])
        for container in pod["containers"] + pod.get("initContainers", []):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert "sh" not in container["command"][0]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((GOLDENS / f"{name}.yaml").read_text()))[1:]


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_volume_is_mounted_and_every_mount_has_a_volume(name: str) -> None:
    for document in documents(name):
        if document["kind"] not in {"StatefulSet", "Job"} or name == "template":
            continue
        pod = document["spec"]["template"]["spec"]
        containers = pod["containers"] + pod.get("initContainers", [])
        mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_an_image_adapter_does_not_touch_the_pods(catalog: Catalog) -> None:
    """They are loaded into the running engine: only the Role follows, so that their Secrets can be read."""
    given = next(yaml.safe_load_all((GOLDENS / "phi-3-on-v100.yaml").read_text()))
    before = planned(given, catalog, Settings())
    given["inference"]["adapters"] = [{"source": {"name": "a", "image": "reg/a:1", "imagePullSecrets": ["s"]}}]
    after = planned(given, catalog, Settings())
    changed = [new.resource.kind for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["Role"]


def job_of(name: str) -> dict[str, Any]:
    (found,) = [document for document in documents(name) if document["kind"] == "Job"]
    return found["spec"]


def containers_of(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.parametrize("name", TUNING)
def test_every_container_of_a_job_has_requests_and_limits(name: str) -> None:
    for container in containers_of(job_of(name)["template"]["spec"]):
        resources = container["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"]) & set(resources["limits"]), container["name"]


@pytest.mark.parametrize("name", TUNING)
def test_the_push_secret_is_mounted_into_the_packager_alone(name: str) -> None:
    pod = job_of(name)["template"]["spec"]
    volumes = [volume["name"] for volume in pod["volumes"] if "secret" in volume]
    holders = {c["name"] for c in containers_of(pod) for m in c["volumeMounts"] if m["name"] in volumes}
    assert holders <= {"adapter-packager", "adapter-packager-check"}
    for container in containers_of(pod):
        assert not [entry for entry in container["env"] if "secretKeyRef" in entry.get("valueFrom", {})]


ORDERS = {
    "tuning-dry-run": ["adapter-packager-check", "weights", "tuner"],
    "tuning-four-gpus-to-a-volume": ["weights", "data", "tuner"],
    "tuning-local-mode": ["adapter-packager-check", "weights", "tuner", "adapter-packager"],
    "tuning-phi-3-qlora": ["adapter-packager-check", "weights", "tuner", "adapter-packager"],
}


@pytest.mark.parametrize(("name", "order"), ORDERS.items(), ids=ORDERS.keys())
def test_the_order_is_kubelet_s(name: str, order: list[str]) -> None:
    pod = job_of(name)["template"]["spec"]
    assert [container["name"] for container in containers_of(pod)] == order
    assert pod["restartPolicy"] == "Never"
    limited = [
        r["onExitCodes"]["containerName"] for r in job_of(name)["podFailurePolicy"]["rules"] if "onExitCodes" in r
    ]
    assert sorted(limited) == sorted(order)


def test_processes_and_threads_follow_the_machine() -> None:
    tuner = containers_of(job_of("tuning-four-gpus-to-a-volume")["template"]["spec"])[-1]
    assert tuner["command"][tuner["command"].index("--processes") + 1] == "4"
    assert {"name": "OMP_NUM_THREADS", "value": "23"} in tuner["env"]  # 95 processors for four processes
    local = containers_of(job_of("tuning-local-mode")["template"]["spec"])[2]
    assert local["command"][local["command"].index("--processes") + 1] == "1"
    assert {"name": "OMP_NUM_THREADS", "value": "2"} in local["env"]


def secrets_that_the_pod_may_read(manifests: tuple[Manifest, ...]) -> set[str]:
    (role,) = [manifest.body for manifest in manifests if manifest.resource.kind == "Role"]
    return {name for rule in role["rules"] if rule["resources"] == ["secrets"] for name in rule["resourceNames"]}


@pytest.mark.parametrize(
    ("changes", "settings", "kept"),
    [
        ({}, Settings(), "registry.example/image:0.0.1-ckpt"),
        ({}, Settings(tuning=TuningSettings(registry_checkpoints=False)), ""),
        ({"volumeSource": {"emptyDir": {}}}, Settings(), ""),
        ({"image": "registry.example:5000/image"}, Settings(), "registry.example:5000/image:latest-ckpt"),
    ],
    ids=["in the registry", "switched off", "on the volume", "no tag"],
)
def test_checkpoints_and_the_right_on_the_push_secret_go_together(
    changes: dict[str, Any], settings: Settings, kept: str, catalog: Catalog
) -> None:
    given = next(yaml.safe_load_all((GOLDENS / "tuning-phi-3-qlora.yaml").read_text()))
    given["tuning"]["output"] |= changes
    manifests = planned(given, catalog, settings)
    (job,) = [manifest.body for manifest in manifests if manifest.resource.kind == "Job"]
    (tuner,) = [c for c in containers_of(job["spec"]["template"]["spec"]) if c["name"] == "tuner"]
    assert secrets_that_the_pod_may_read(manifests) == ({"registry-secret"} if kept else set())
    assert ("--checkpoint-image" in tuner["command"]) == bool(kept)
    assert not kept or tuner["command"][tuner["command"].index("--checkpoint-image") + 1] == kept


def test_the_tuner_knows_how_much_its_scratch_volume_may_hold(catalog: Catalog) -> None:
    """Beyond sizeLimit the kubelet evicts the pod, again and again; the tuner ends with DiskFull before."""
    given = next(yaml.safe_load_all((GOLDENS / "tuning-phi-3-qlora.yaml").read_text()))
    manifests = planned(given, catalog, Settings(tuning=TuningSettings(scratch_gib=7)))
    (job,) = [manifest.body for manifest in manifests if manifest.resource.kind == "Job"]
    pod = job["spec"]["template"]["spec"]
    (tuner,) = [c for c in containers_of(pod) if c["name"] == "tuner"]
    (limit,) = [volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "work"]
    words = dict(zip(tuner["command"], tuner["command"][1:], strict=False))
    assert (limit, words["--work"], words["--work-bytes"]) == ("7Gi", "/workspace/tuner", str(7 * 1024**3))
    requested, most = (tuner["resources"][kind]["ephemeral-storage"] for kind in ("requests", "limits"))
    assert int(most.removesuffix("Gi")) - int(requested.removesuffix("Gi")) == 2 * 7 + 4


@pytest.mark.parametrize("data", [{"urls": ["https://example.org/rows"]}, {"image": "registry.example/rows:1"}])
def test_the_volumes_of_a_tuning_pod_fit_into_its_limit_together(data: dict[str, Any], catalog: Catalog) -> None:
    given = next(yaml.safe_load_all((GOLDENS / "tuning-phi-3-qlora.yaml").read_text()))
    given["tuning"]["input"] = data
    (job,) = [m.body for m in planned(given, catalog, Settings()) if m.resource.kind == "Job"]
    pod = job["spec"]["template"]["spec"]
    (tuner,) = [c for c in containers_of(pod) if c["name"] == "tuner"]
    disks = [v["emptyDir"] for v in pod["volumes"] if "emptyDir" in v and v["emptyDir"].get("medium") != "Memory"]
    most = int(tuner["resources"]["limits"]["ephemeral-storage"].removesuffix("Gi"))
    assert len(disks) >= 4
    assert sum(int(disk["sizeLimit"].removesuffix("Gi")) for disk in disks) <= most


def test_every_request_of_every_workspace_has_a_name_of_its_own(catalog: Catalog) -> None:
    """The tuner takes a finished adapter without a look at the data only under the same name."""

    def name(revision: int, **changes: Any) -> str:
        given = next(yaml.safe_load_all((GOLDENS / "tuning-phi-3-qlora.yaml").read_text()))
        given["metadata"]["uid"] = changes.pop("uid", "first")
        given["tuning"]["input"] |= changes
        workspace = msgspec.convert(given, Workspace)
        sizing = validate(workspace, catalog, Settings(), config=CONFIG, nodes=[]).sizing
        assert sizing is not None
        run = present_run(Observed(workspace=workspace, config=CONFIG)).name
        *_, job = plan_tuning(workspace, CONFIG, sizing, Settings(), run=run, revision=revision)
        (tuner,) = [c for c in containers_of(job.body["spec"]["template"]["spec"]) if c["name"] == "tuner"]
        return str(tuner["command"][tuner["command"].index("--run") + 1])

    assert name(1) == name(1)
    assert name(1).startswith("first/")
    again = name(3)  # after another request, whose revision was 2
    others = {name(1, uid="second"), again, name(1, urls=["https://example.org/other"])}
    assert len(others | {name(1)}) == 4


@pytest.mark.parametrize(("name", "block"), [("phi-3-on-v100", "inference"), ("tuning-phi-3-qlora", "tuning")])
@pytest.mark.parametrize(
    ("annotations", "pulled"),
    [({}, True), ({"kaito.sh/weights-claim": "models"}, False), ({"kaito.sh/weights-from": "hf"}, False)],
    ids=["from a registry", "from a volume", "from the hub"],
)
def test_the_weights_secret_is_readable_only_where_it_pulls_them(
    name: str, block: str, annotations: dict[str, str], pulled: bool, catalog: Catalog
) -> None:
    given = next(yaml.safe_load_all((GOLDENS / f"{name}.yaml").read_text()))
    given["metadata"]["annotations"] = annotations
    given[block]["preset"]["presetOptions"] = {"imagePullSecrets": ["weights-pull"]}
    assert ("weights-pull" in secrets_that_the_pod_may_read(planned(given, catalog, CASES[name]))) == pulled
