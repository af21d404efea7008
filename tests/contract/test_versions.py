"""What passes through either version of the Workspace keeps every field and gains none; users' examples are accepted."""

import copy
from typing import Any

import msgspec
import pytest

from kaito_api.workspace import Workspace

pytestmark = pytest.mark.integration

VERSIONS = ("v1alpha1", "v1beta1")
EXAMPLES = {
    "inference-phi-3": {
        "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "phi-3"}}},
        "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
    },
    "inference-phi-3-with-adapters": {
        "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "phi-3-adapter"}}},
        "inference": {
            "preset": {"name": "phi-3-mini-128k-instruct"},
            "adapters": [
                {"source": {"name": "phi-3-adapter", "image": "REGISTRY/ADAPTER:0.0.1"}, "strength": "1.0"},
            ],
        },
    },
    "tuning-phi-3-qlora": {
        "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"app": "tuning-phi-3"}}},
        "tuning": {
            "preset": {"name": "phi-3-mini-128k-instruct"},
            "method": "qlora",
            "input": {
                "urls": [
                    "https://huggingface.co/datasets/philschmid/dolly-15k-oai-style/resolve/main/data/"
                    "train-00000-of-00001-54e3756291ca09c6.parquet?download=true"
                ]
            },
            "output": {"image": "REGISTRY/IMAGE:0.0.1", "imagePushSecret": "REGISTRY_SECRET"},
        },
    },
}
"""The manifests that KAITO's documentation gives its users, unchanged."""


def url(version: str, namespace: str, *rest: str) -> str:
    return "/".join([f"/apis/kaito.sh/{version}/namespaces/{namespace}/workspaces", *rest])


def full(specimens: Any, kind: str) -> dict[str, Any]:
    """A Workspace with every field that can be set at once."""
    workspace: dict[str, Any] = copy.deepcopy(specimens["Workspace"])
    workspace["metadata"] = {"name": "w", "labels": {"a": "b"}, "annotations": {"kaito.sh/enablelb": "True"}}
    selector = workspace["resource"]["labelSelector"]
    selector["matchExpressions"][0]["operator"] = "In"
    workspace["resource"]["partition"] = {"mode": "mig", "profile": "1g.10gb"}
    workspace["inference"].pop("template")
    adapter = workspace["inference"]["adapters"][0]
    adapter["strength"] = "0.5"
    adapter["source"].pop("urls")
    adapter["source"].pop("volumeSource")
    source = workspace["tuning"]["input"]
    source.pop("image")
    source.pop("volumeSource")
    source["urls"] = ["https://example.com/data"]
    workspace.pop("inference" if kind == "tuning" else "tuning")
    return workspace


def content(stored: dict[str, Any]) -> dict[str, Any]:
    meta = stored["metadata"]
    kept = {key: meta[key] for key in ("name", "labels", "annotations") if key in meta}
    return {key: value for key, value in stored.items() if key != "apiVersion"} | {"metadata": kept}


@pytest.mark.parametrize("kind", ["inference", "tuning"])
@pytest.mark.parametrize("written", VERSIONS)
async def test_every_field_survives_either_version(
    api: Any, namespace: str, specimens: Any, written: str, kind: str
) -> None:
    sent = full(specimens, kind) | {"apiVersion": f"kaito.sh/{written}"}
    await api.create(url(written, namespace), sent)
    await api.merge(url(written, namespace, "w", "status"), {"status": sent["status"]})
    for version in VERSIONS:
        assert content(await api.get(url(version, namespace, "w"))) == content(sent)
        # A client that reads and writes back through one version must not lose what the other one wrote.
        stored = await api.get(url(version, namespace, "w"))
        await api.replace(url(version, namespace, "w"), stored)
        await api.replace(url(version, namespace, "w", "status"), await api.get(url(version, namespace, "w")))
        assert content(await api.get(url("v1beta1", namespace, "w"))) == content(sent)


@pytest.mark.parametrize("written", VERSIONS)
async def test_nothing_but_the_documented_defaults_is_invented(api: Any, namespace: str, written: str) -> None:
    sent = {
        "apiVersion": f"kaito.sh/{written}",
        "kind": "Workspace",
        "metadata": {"name": "w"},
        "resource": {"labelSelector": {"matchLabels": {"a": "b"}}},
        "inference": {"preset": {"name": "phi-4"}},
    }
    await api.create(url(written, namespace), sent)
    for version in VERSIONS:
        stored = await api.get(url(version, namespace, "w"))
        assert stored["resource"] == {"count": 1, "labelSelector": {"matchLabels": {"a": "b"}}}
        assert stored["inference"] == {"preset": {"name": "phi-4", "accessMode": "public"}}
        assert stored.keys() == {"apiVersion", "kind", "metadata", "resource", "inference"}


@pytest.mark.parametrize("written", VERSIONS)
@pytest.mark.parametrize("example", EXAMPLES)
async def test_examples_of_users_are_accepted(
    api: Any, namespace: str, policies: None, example: str, written: str
) -> None:
    sent = EXAMPLES[example] | {
        "apiVersion": f"kaito.sh/{written}",
        "kind": "Workspace",
        "metadata": {"name": "workspace-" + example},
    }
    await api.create(url(written, namespace) + "?fieldValidation=Strict", sent)
    stored = await api.get(url("v1beta1", namespace, "workspace-" + example))
    decoded = msgspec.json.decode(msgspec.json.encode(stored), type=Workspace)
    assert decoded.resource is not None
    assert decoded.resource.instance_type == "Standard_NC6s_v3"
    assert (decoded.tuning is None) == example.startswith("inference")


async def test_an_unknown_field_is_named_to_the_user(api: Any, namespace: str) -> None:
    sent = EXAMPLES["inference-phi-3"] | {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "spec": {}}
    sent = sent | {"metadata": {"name": "w"}, "resource": {**sent["resource"], "instancetype": "x"}}
    refusal = await api.refusal("POST", url("v1beta1", namespace) + "?fieldValidation=Strict", sent)
    assert 'unknown field "spec"' in refusal
    assert 'unknown field "resource.instancetype"' in refusal
