"""Objects that were stored before a rule existed: their status can be patched and they can be deleted."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytestmark = pytest.mark.integration

GROUP = "before.contract.test"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
FINALIZER = "workspace.finalizer.kaito.sh"
RESOURCE = {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"a": "b"}}}
VOLUME = {"persistentVolumeClaim": {"claimName": "c"}}
PRESET = {"name": "phi-4"}
TUNING = {
    "preset": PRESET,
    "method": "lora",
    "input": {"urls": ["https://example.com/a"]},
    "output": {"image": "i", "imagePushSecret": "s"},
}

BAD: dict[str, dict[str, Any]] = {
    "neither-kind": {"resource": RESOURCE},
    "both-kinds": {"resource": RESOURCE, "inference": {"preset": PRESET}, "tuning": TUNING},
    "no-resource": {"inference": {"preset": PRESET}},
    "empty-selector": {"resource": {"labelSelector": {}}, "inference": {"preset": PRESET}},
    "no-selector": {"resource": {"instanceType": "x"}, "inference": {"preset": PRESET}},
    "exists-selector": {
        "resource": {"labelSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}},
        "inference": {"preset": PRESET},
    },
    "illegal-label": {"resource": {"labelSelector": {"matchLabels": {"a b": "-"}}}, "inference": {"preset": PRESET}},
    "partition": {
        "resource": {**RESOURCE, "partition": {"mode": "mig", "count": 0}},
        "inference": {"preset": PRESET},
    },
    "unknown-partition": {"resource": {**RESOURCE, "partition": {"mode": "half"}}, "inference": {"preset": PRESET}},
    "preset-and-template": {"resource": RESOURCE, "inference": {"preset": PRESET, "template": {"spec": {"a": [1]}}}},
    "no-preset": {"resource": RESOURCE, "inference": {}},
    "adapters": {
        "resource": RESOURCE,
        "inference": {
            "preset": PRESET,
            "adapters": [
                {"source": {"name": "A_B", "urls": []}, "strength": "much"},
                {"source": {"name": "A_B", "image": "i", "volumeSource": {}}},
                {"strength": ""},
            ],
        },
    },
    "many-adapters": {
        "resource": RESOURCE,
        "inference": {"preset": PRESET, "adapters": [{"source": {"name": "a", "image": "i"}}] * 11},
    },
    "long-preset": {"resource": RESOURCE, "inference": {"preset": {"name": "p" * 300}}},
    "tuning-empty": {"resource": RESOURCE, "tuning": {"input": {}, "output": {}}},
    "tuning-method": {"resource": RESOURCE, "tuning": {**TUNING, "method": "QLoRA"}},
    "tuning-urls": {"resource": RESOURCE, "tuning": {**TUNING, "input": {"urls": ["ftp://a"], "image": "i"}}},
    "tuning-output": {"resource": RESOURCE, "tuning": {**TUNING, "output": {"image": "i"}}},
    # The apiserver takes a value with unknown fields in it for changed: these pass only because our rules look at oldSelf.
    "volume-adapters": {
        "resource": RESOURCE,
        "inference": {
            "preset": PRESET,
            "template": {"spec": {"containers": []}},
            "adapters": [
                {"source": {"name": "A_B", "urls": [], "volumeSource": VOLUME}, "strength": "much"},
                {"source": {"name": "A_B", "image": "i", "volumeSource": VOLUME}},
                {"source": {"volumeSource": VOLUME}},
            ],
        },
    },
    "tuning-volumes": {
        "resource": RESOURCE,
        "tuning": {
            "input": {"volumeSource": VOLUME, "image": "i", "urls": ["ftp://a"]},
            "output": {"image": "i", "volumeSource": VOLUME},
        },
    },
    "9.starts-with-a-digit": {"resource": RESOURCE, "inference": {"preset": PRESET}},
}


@pytest.fixture
async def crd(api: Any, documents: Any) -> AsyncIterator[dict[str, Any]]:
    """Our CRD under a group of the test's own, stored without a single rule."""
    (ours,) = documents("crds/kaito.sh_workspaces.yaml")
    ours = json.loads(json.dumps(ours).replace("kaito.sh", GROUP))
    ours["spec"]["names"] |= {"shortNames": [], "categories": []}
    bare = copy.deepcopy(ours)
    for version in bare["spec"]["versions"]:
        without_rules(version["schema"]["openAPIV3Schema"])
    await api.create(CRDS, bare)
    await eventually_served(api)
    yield ours
    await api.delete(f"{CRDS}/{ours['metadata']['name']}")


def without_rules(schema: Any) -> None:
    """Takes every constraint out of a schema and leaves the types."""
    for word in ("x-kubernetes-validations", "required", "enum", "pattern", "minimum", "maximum", "minLength"):
        if word in schema and not isinstance(schema[word], dict):
            del schema[word]
    for word in ("maxLength", "maxItems", "maxProperties"):
        schema.pop(word, None)
    children = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    keys = schema.get("x-kubernetes-list-map-keys", [])
    if keys:
        schema["items"]["required"] = keys
    for child in children:
        if isinstance(child, dict):
            required = child.get("required") if keys else None
            without_rules(child)
            if required:
                child["required"] = required


async def eventually_served(api: Any) -> None:
    """Returns when the new kind can be listed: establishing takes the apiserver some moments."""
    async with asyncio.timeout(30):
        while True:
            try:
                await api.get(f"/apis/{GROUP}/v1beta1/workspaces")
            except AssertionError:
                await asyncio.sleep(0.05)
            else:
                return


async def eventually_ruled(api: Any, path: str) -> None:
    """Returns when the new schema judges: a bad new object is refused."""
    body = workspace("probe", {"resource": {}})
    async with asyncio.timeout(30):
        while True:
            try:
                await api.create(f"{path}?dryRun=All", body)
            except AssertionError:
                return
            await asyncio.sleep(0.05)


def workspace(name: str, content: dict[str, Any]) -> dict[str, Any]:
    meta = {"name": name, "finalizers": [FINALIZER]}
    return {"apiVersion": f"{GROUP}/v1beta1", "kind": "Workspace", "metadata": meta, **content}


async def test_they_keep_their_status_and_can_go(api: Any, namespace: str, crd: dict[str, Any]) -> None:
    path = f"/apis/{GROUP}/v1beta1/namespaces/{namespace}/workspaces"
    for name, content in BAD.items():
        await api.create(path, workspace(name, content))
    await api.apply(f"{CRDS}/{crd['metadata']['name']}", crd)
    await eventually_ruled(api, path)
    condition = {
        "type": "WorkspaceSucceeded",
        "status": "False",
        "reason": "SpecInvalid",
        "message": "inference: set exactly one of preset and template",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }
    stuck = {}
    for name in BAD:
        try:
            await live_and_die(api, f"{path}/{name}", condition)
        except AssertionError as refused:
            stuck[name] = str(refused)
    assert stuck == {}
    assert (await api.get(path))["items"] == []


async def live_and_die(api: Any, path: str, condition: dict[str, Any]) -> None:
    """What the controller does to an object that it cannot serve, until the object is gone."""
    status = {"state": "NotReady", "workerNodes": ["n"], "conditions": [condition]}
    patched = await api.merge(f"{path}/status", {"status": status})
    assert patched["status"]["conditions"] == [condition]
    annotated = await api.merge(path, {"metadata": {"annotations": {"a": "b"}}})
    assert annotated["metadata"]["annotations"] == {"a": "b"}
    deleting = await api.delete(path)
    assert deleting["metadata"]["deletionTimestamp"]
    await api.merge(f"{path}/status", {"status": {"state": "Failed"}})
    await api.merge(path, {"metadata": {"finalizers": None}})
