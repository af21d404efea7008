"""A real kube-apiserver takes every planned object, field by field, and its Pod Security admission the planned pods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito_local.errors import CommandError
from kaito_local.pytest_plugin import ApiServer

pytestmark = pytest.mark.integration

GOLDENS = Path(__file__).parents[1] / "goldens"
NAMES = sorted(file.stem for file in GOLDENS.glob("*.yaml"))
UNRESTRICTED = {"template", "node-disk-weights"}
"""The user's own pod, and a folder of the node's disk."""


def planned(name: str, namespace: str) -> list[dict[str, Any]]:
    documents = list(yaml.safe_load_all((GOLDENS / f"{name}.yaml").read_text()))
    for document in documents:
        document["metadata"].pop("uid", None)
        if "namespace" in document["metadata"]:
            document["metadata"]["namespace"] = namespace
        for subject in document.get("subjects", []):
            subject["namespace"] = namespace
    return documents


def write(documents: list[dict[str, Any]], file: Path) -> str:
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))
    return str(file)


@pytest.mark.parametrize("name", NAMES)
async def test_every_object_is_taken_as_it_is(name: str, apiserver: ApiServer, namespace: str, tmp_path: Path) -> None:
    file = write(planned(name, namespace), tmp_path / "planned.json")
    flags = ("--dry-run=server", "--validate=strict", "--server-side", "-o", "json", "-f", file)
    answer = json.loads(await apiserver.kubectl("apply", *flags))
    kinds = [item["kind"] for item in answer["items"]]
    assert kinds == [document["kind"] for document in planned(name, namespace)]
    for sent, stored in zip(planned(name, namespace), answer["items"], strict=True):
        assert_kept(sent, stored, sent["kind"])


def assert_kept(sent: Any, stored: Any, path: str) -> None:
    """Everything that was sent is stored: a field that the schema does not know would be gone."""
    if isinstance(sent, dict):
        for key, value in sent.items():
            assert isinstance(stored, dict), path
            assert key in stored or value in ({}, [], None, False), f"{path}.{key} was dropped"
            assert_kept(value, stored.get(key, value), f"{path}.{key}")
    elif isinstance(sent, list):
        assert len(sent) == len(stored), path
        for index, (one, other) in enumerate(zip(sent, stored, strict=True)):
            assert_kept(one, other, f"{path}[{index}]")
    elif not path.endswith("apiVersion"):
        assert str(sent) == str(stored), path


@pytest.mark.parametrize("name", sorted(set(NAMES) - UNRESTRICTED))
async def test_the_restricted_standard_admits_the_pods(
    name: str, apiserver: ApiServer, namespace: str, tmp_path: Path
) -> None:
    await apiserver.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    documents = planned(name, namespace)
    accounts = [document for document in documents if document["kind"] == "ServiceAccount"]
    await apiserver.kubectl("apply", "-f", write(accounts, tmp_path / "accounts.json"))
    template = next(document for document in documents if document["kind"] in {"StatefulSet", "Job"})["spec"][
        "template"
    ]
    metadata = template["metadata"] | {"name": "pod", "namespace": namespace}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    await apiserver.kubectl("create", "--dry-run=server", "-f", write([pod], tmp_path / "pod.json"))
    del pod["spec"]["securityContext"]["runAsNonRoot"]
    with pytest.raises(CommandError, match="runAsNonRoot"):
        await apiserver.kubectl("create", "--dry-run=server", "-f", write([pod], tmp_path / "pod.json"))
