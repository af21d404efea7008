"""Every rule of the Workspace CRD refuses what it should, with a message that says what to do."""

import copy
from typing import Any

import pytest

pytestmark = pytest.mark.integration

INFERENCE: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {"name": "w"},
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "phi-3"}}},
    "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
}
TUNING: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {"name": "w"},
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "phi-3"}}},
    "tuning": {
        "preset": {"name": "phi-3-mini-4k-instruct"},
        "method": "qlora",
        "input": {"name": "dolly", "urls": ["https://example.com/a.parquet?download=true"]},
        "output": {"image": "registry/a:1", "imagePushSecret": "push"},
    },
}
ADAPTER = {"source": {"name": "poet", "image": "registry/poet:1"}, "strength": "0.5"}
REMOVE = object()


def changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of `base` with values set, or removed, at dotted paths."""
    result = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is REMOVE:
            place.pop(leaf, None)
        else:
            place[leaf] = value
    return result


def url(namespace: str, name: str = "") -> str:
    return f"/apis/kaito.sh/v1beta1/namespaces/{namespace}/workspaces{'/' if name else ''}{name}"


SELECTOR = "resource.labelSelector"
REFUSED_ON_CREATE = [
    (INFERENCE, {SELECTOR: REMOVE}, "resource.labelSelector: Required value"),
    (INFERENCE, {SELECTOR: {}}, "the label selector is empty and would select every node"),
    (INFERENCE, {SELECTOR: {"matchLabels": {}}}, "the label selector is empty"),
    (
        INFERENCE,
        {SELECTOR: {"matchExpressions": [{"key": "a", "operator": "Exists"}]}},
        "must amount to plain labels: use matchLabels, or operator In with exactly one value",
    ),
    (
        INFERENCE,
        {SELECTOR: {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}]}},
        "must amount to plain labels",
    ),
    (
        INFERENCE,
        {SELECTOR: {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}},
        "must amount to plain labels",
    ),
    (INFERENCE, {SELECTOR: {"matchLabels": {"no spaces": "b"}}}, "keys and values must be valid labels"),
    (INFERENCE, {SELECTOR: {"matchLabels": {"a": "-b-"}}}, "keys and values must be valid labels"),
    (INFERENCE, {SELECTOR: {"matchLabels": {f"k{i}": "v" for i in range(33)}}}, "must have at most 32 items"),
    (INFERENCE, {"resource.count": -1}, "should be greater than or equal to 0"),
    (INFERENCE, {"resource.count": "two"}, "must be of type integer"),
    (INFERENCE, {"resource.partition": {"mode": "half"}}, 'supported values: "mig", "accelerator"'),
    (INFERENCE, {"resource.partition": {"mode": "mig"}}, "mode mig needs a profile"),
    (INFERENCE, {"resource.partition": {"mode": "mig", "profile": "1g.10gb", "count": 1}}, "takes no count"),
    (INFERENCE, {"resource.partition": {"mode": "accelerator"}}, "mode accelerator needs a count of GPUs"),
    (INFERENCE, {"resource.partition": {"mode": "accelerator", "count": 1, "profile": "x"}}, "takes no profile"),
    (INFERENCE, {"inference": {}}, "set exactly one of inference.preset (a model by name) and inference.template"),
    (INFERENCE, {"inference.template": {"spec": {}}}, "set exactly one of inference.preset"),
    (INFERENCE, {"inference.preset.name": REMOVE}, "inference.preset.name: Required value"),
    (INFERENCE, {"inference.preset.name": ""}, "inference.preset.name"),
    (INFERENCE, {"inference.preset.accessMode": "secret"}, 'supported values: "public", "private"'),
    (INFERENCE, {"inference.adapters": [{"strength": "1"}]}, "source: Required value"),
    (INFERENCE, {"inference.adapters": [ADAPTER, ADAPTER]}, "two adapters have the same name"),
    (
        INFERENCE,
        {"inference.adapters": [{"source": {"name": f"a{i}", "image": "i"}} for i in range(11)]},
        "must have at most 10 items",
    ),
    (INFERENCE, {"inference.adapters": [{"source": {"image": "i"}}]}, "an adapter needs a name of lower-case letters"),
    (INFERENCE, {"inference.adapters": [{"source": {"name": "A_B", "image": "i"}}]}, "an adapter needs a name"),
    (INFERENCE, {"inference.adapters": [{"source": {"name": "a"}}]}, "an adapter comes from exactly one place"),
    (
        INFERENCE,
        {"inference.adapters": [{"source": {"name": "a", "image": "i", "volumeSource": {"emptyDir": {}}}}]},
        "an adapter comes from exactly one place",
    ),
    (
        INFERENCE,
        {"inference.adapters": [{"source": {"name": "a", "image": "i", "urls": ["https://x/y"]}}]},
        "an adapter comes from an image or a volume, not from urls",
    ),
    *(
        (
            INFERENCE,
            {"inference.adapters": [{**ADAPTER, "strength": bad}]},
            "the strength of an adapter is a decimal from",
        )
        for bad in ("", "4.1", "-0.5", "5", "10", "much", "0.5 ", "1e-1", "0.1234567", "00.5")
    ),
    (INFERENCE, {"inference.adapters": [{**ADAPTER, "strength": 0.5}]}, "must be of type string"),
    (TUNING, {"tuning.preset": REMOVE}, "tuning.preset: Required value"),
    (TUNING, {"tuning.method": REMOVE}, "tuning.method: Required value"),
    (TUNING, {"tuning.method": "QLoRA"}, 'Unsupported value: "QLoRA": supported values: "lora", "qlora"'),
    (TUNING, {"tuning.input": REMOVE}, "tuning.input: Required value"),
    (TUNING, {"tuning.input": {}}, "the training data comes from exactly one place"),
    (TUNING, {"tuning.input.image": "i"}, "the training data comes from exactly one place"),
    (TUNING, {"tuning.input.urls": []}, "give at least one URL"),
    *(
        (
            TUNING,
            {"tuning.input.urls": ["https://example.com/a", bad]},
            "each URL must be absolute and begin with https",
        )
        for bad in ("ftp://example.com/a", "file:///etc/passwd", "/a", "https://", "a b", "")
    ),
    (TUNING, {"tuning.output": REMOVE}, "tuning.output: Required value"),
    (TUNING, {"tuning.output": {}}, "say where the adapter goes: set image or volumeSource"),
    (TUNING, {"tuning.output.imagePushSecret": REMOVE}, "an output image needs imagePushSecret"),
    (TUNING, {"tuning.output.imagePushSecret": ""}, "an output image needs imagePushSecret"),
]


@pytest.mark.parametrize(("base", "changes", "message"), REFUSED_ON_CREATE)
async def test_create_is_refused(api: Any, namespace: str, base: Any, changes: Any, message: str) -> None:
    assert message in await api.refusal("POST", url(namespace), changed(base, changes))


ACCEPTED_ON_CREATE = [
    (INFERENCE, {}),
    (TUNING, {}),
    (INFERENCE, {"resource.instanceType": REMOVE}),
    (INFERENCE, {SELECTOR: {"matchExpressions": [{"key": "a.b/c", "operator": "In", "values": ["d"]}]}}),
    (INFERENCE, {"resource.partition": {"mode": "mig", "profile": "1g.10gb"}}),
    (INFERENCE, {"resource.partition": {"mode": "accelerator", "count": 2}}),
    (INFERENCE, {"inference": {"template": {"spec": {"containers": [{"name": "c", "anything": ["goes"]}]}}}}),
    (INFERENCE, {"inference.preset.name": "microsoft/Phi-4-mini-instruct"}),
    *(
        (INFERENCE, {"inference.adapters": [{**ADAPTER, "strength": good}]})
        for good in ("0", "1", "0.5", ".5", "1.0", "0.123456", "1.5", "4", "4.0")
    ),
    (INFERENCE, {"inference.adapters": [{"source": {"name": "a.b", "volumeSource": {"nfs": {"server": "s"}}}}]}),
    (INFERENCE, {"inference.adapters": [{"source": {"name": f"a{i}", "image": "i"}} for i in range(10)]}),
    (TUNING, {"tuning.input": {"image": "registry/data:1"}}),
    (TUNING, {"tuning.input": {"volumeSource": {"persistentVolumeClaim": {"claimName": "c"}}}}),
    (TUNING, {"tuning.input.urls": ["http://data.team.svc.cluster.local:8080/a.json", "https://[2001:db8::1]/a"]}),
    (TUNING, {"tuning.output": {"volumeSource": {"emptyDir": {}}}}),
    (TUNING, {"tuning.output": {"volumeSource": {"emptyDir": {}}, "image": "i", "imagePushSecret": "s"}}),
]


@pytest.mark.parametrize(("base", "changes"), ACCEPTED_ON_CREATE)
async def test_create_is_accepted(api: Any, namespace: str, base: Any, changes: Any) -> None:
    sent = changed(base, changes)
    stored = await api.create(url(namespace), sent)
    kind = "tuning" if "tuning" in sent else "inference"
    sent["resource"].setdefault("count", 1)
    if "preset" in sent[kind]:
        sent[kind]["preset"].setdefault("accessMode", "public")
    assert {key: stored[key] for key in ("resource", kind)} == {key: sent[key] for key in ("resource", kind)}


TEMPLATE = changed(INFERENCE, {"inference": {"template": {"spec": {"containers": []}}}})
NO_TYPE = changed(INFERENCE, {"resource.instanceType": REMOVE})
PARTED = changed(INFERENCE, {"resource.partition": {"mode": "accelerator", "count": 1}})
REFUSED_ON_UPDATE = [
    (INFERENCE, {"resource": {"instanceType": "Standard_NC12s_v3"}}, "the instance type cannot be changed"),
    (INFERENCE, {"resource": {"instanceType": None}}, "the instance type cannot be changed"),
    (NO_TYPE, {"resource": {"instanceType": "Standard_NC12s_v3"}}, "the instance type cannot be changed"),
    (INFERENCE, {"resource": {"count": 2}}, "the count cannot be changed"),
    (changed(INFERENCE, {"resource.count": 2}), {"resource": {"count": None}}, "the count cannot be changed"),
    (INFERENCE, {"resource": {"labelSelector": {"matchLabels": {"b": "c"}}}}, "the label selector cannot be changed"),
    (INFERENCE, {"resource": {"partition": {"mode": "mig", "profile": "x"}}}, "the partition cannot be changed"),
    (PARTED, {"resource": {"partition": None}}, "the partition cannot be changed"),
    (PARTED, {"resource": {"partition": {"count": 2}}}, "the partition cannot be changed"),
    (INFERENCE, {"inference": {"preset": {"name": "phi-4"}}}, "the model cannot be changed"),
    (INFERENCE, {"inference": {"preset": None, "template": {"spec": {}}}}, "the model cannot be changed"),
    (TEMPLATE, {"inference": {"template": None, "preset": {"name": "phi-4"}}}, "neither added nor removed"),
    (TUNING, {"tuning": {"preset": {"name": "phi-4"}}}, "the model cannot be changed"),
    (TUNING, {"tuning": {"method": "lora"}}, "the tuning method cannot be changed"),
    (TUNING, {"tuning": {"input": {"name": "other"}}}, "the name of the input cannot be changed"),
    (TUNING, {"tuning": {"input": {"name": None}}}, "the name of the input cannot be changed"),
]


@pytest.mark.parametrize(("stored", "patch", "message"), REFUSED_ON_UPDATE)
async def test_update_is_refused(api: Any, namespace: str, stored: Any, patch: Any, message: str) -> None:
    await api.create(url(namespace), stored)
    path = url(namespace, "w")
    assert message in await api.refusal("PATCH", path, patch, "application/merge-patch+json")


@pytest.mark.parametrize(
    ("stored", "patch"),
    [
        (INFERENCE, {"inference": {"config": "settings", "adapters": [ADAPTER]}}),
        (INFERENCE, {"inference": {"preset": {"presetOptions": {"modelAccessSecret": "token"}}}}),
        (INFERENCE, {"resource": {"preferredNodes": ["a"]}}),
        (TEMPLATE, {"inference": {"template": {"spec": {"containers": [{"name": "new"}]}}}}),
        (TUNING, {"tuning": {"config": "settings", "input": {"urls": ["https://example.com/b"]}}}),
        (TUNING, {"tuning": {"output": {"image": "registry/a:2"}}}),
    ],
)
async def test_update_is_accepted(api: Any, namespace: str, stored: Any, patch: Any) -> None:
    before = await api.create(url(namespace), stored)
    after = await api.merge(url(namespace, "w"), patch)
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1


async def test_a_changing_update_cannot_go_through_the_old_version(api: Any, namespace: str) -> None:
    await api.create(url(namespace), INFERENCE)
    path = url(namespace, "w").replace("v1beta1", "v1alpha1")
    patch = {"resource": {"instanceType": "Standard_NC12s_v3"}}
    assert "cannot be changed" in await api.refusal("PATCH", path, patch, "application/merge-patch+json")
