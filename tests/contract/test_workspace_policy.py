"""The admission policy for whole Workspaces: what it refuses, and that it never stands in the way of clean-up."""

import asyncio
from typing import Any

import pytest

pytestmark = pytest.mark.integration

RESOURCE = {"labelSelector": {"matchLabels": {"a": "b"}}}
INFERENCE = {"preset": {"name": "phi-4"}}
TUNING = {
    "preset": {"name": "phi-4"},
    "method": "lora",
    "input": {"urls": ["https://example.com/a"]},
    "output": {"image": "i", "imagePushSecret": "s"},
}
ONE_KIND = "set exactly one of inference (serve a model) and tuning (train an adapter)"
NAME = "must begin with a lower-case letter"


def url(namespace: str, *rest: str, version: str = "v1beta1") -> str:
    return "/".join([f"/apis/kaito.sh/{version}/namespaces/{namespace}/workspaces", *rest])


def workspace(name: str = "w", version: str = "v1beta1", **content: Any) -> dict[str, Any]:
    return {"apiVersion": f"kaito.sh/{version}", "kind": "Workspace", "metadata": {"name": name}, **content}


@pytest.mark.parametrize("version", ["v1alpha1", "v1beta1"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"resource": RESOURCE}, ONE_KIND),
        ({"resource": RESOURCE, "inference": INFERENCE, "tuning": TUNING}, ONE_KIND),
        ({"inference": INFERENCE}, "resource is missing: say which machines to use"),
        ({"name": "w.dotted", "resource": RESOURCE, "inference": INFERENCE}, NAME),
        ({"name": "0w", "resource": RESOURCE, "inference": INFERENCE}, NAME),
        ({"name": "w" * 64, "resource": RESOURCE, "inference": INFERENCE}, "at most 63 characters"),
        ({"name": "w-", "resource": RESOURCE, "inference": INFERENCE}, "metadata.name"),
    ],
)
async def test_create_is_refused(
    api: Any, namespace: str, policies: None, version: str, content: dict[str, Any], message: str
) -> None:
    refusal = await api.refusal("POST", url(namespace, version=version), workspace(version=version, **content))
    assert message in refusal


@pytest.mark.parametrize("name", ["w", "w" * 63, "phi-3"])
async def test_create_is_accepted(api: Any, namespace: str, policies: None, name: str) -> None:
    await api.create(url(namespace), workspace(name, resource=RESOURCE, inference=INFERENCE))


async def test_a_generated_name_is_judged_too(api: Any, namespace: str, policies: None) -> None:
    body = workspace(resource=RESOURCE, inference=INFERENCE)
    body["metadata"] = {"generateName": "9-"}
    assert NAME in await api.refusal("POST", url(namespace), body)
    body["metadata"] = {"generateName": "nine-"}
    await api.create(url(namespace), body)


@pytest.mark.parametrize(
    "patch",
    [
        {"inference": None, "tuning": TUNING},
        {"tuning": TUNING},
        {"inference": None},
    ],
)
async def test_the_kind_of_work_cannot_change(api: Any, namespace: str, policies: None, patch: Any) -> None:
    await api.create(url(namespace), workspace(resource=RESOURCE, inference=INFERENCE))
    refusal = await api.refusal("PATCH", url(namespace, "w"), patch, "application/merge-patch+json")
    assert "cannot turn from inference to tuning or back" in refusal


async def test_resource_cannot_be_removed_to_set_it_anew(api: Any, namespace: str, policies: None) -> None:
    await api.create(url(namespace), workspace(resource=RESOURCE, inference=INFERENCE))
    patch = {"resource": None}
    refusal = await api.refusal("PATCH", url(namespace, "w"), patch, "application/merge-patch+json")
    assert "resource is missing" in refusal


BOTH = {"resource": RESOURCE, "inference": INFERENCE, "tuning": TUNING}


async def test_a_bad_object_of_old_can_be_edited_and_mended(api: Any, namespace: str, policies: None) -> None:
    """Stored while the policy was not bound: an edit that changes nothing bad passes, mending passes, worse does not."""
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/kaito-workspace-validation"
    bound = await api.get(path)
    await api.delete(path)
    async with asyncio.timeout(30):
        while True:
            try:
                await api.create(url(namespace), workspace(**BOTH))
            except AssertionError:
                await asyncio.sleep(0.1)
            else:
                break
    await api.create(url(namespace), workspace("bare"))
    fresh = {"metadata": {"name": bound["metadata"]["name"]}, "spec": bound["spec"]}
    await api.apply(path, {"apiVersion": bound["apiVersion"], "kind": bound["kind"], **fresh})
    async with asyncio.timeout(30):
        while True:
            try:
                await api.create(f"{url(namespace)}?dryRun=All", workspace("probe"))
            except AssertionError:
                break
            await asyncio.sleep(0.1)
    await api.merge(url(namespace, "w"), {"metadata": {"finalizers": ["workspace.finalizer.kaito.sh"]}})
    await api.merge(url(namespace, "w"), {"inference": {"config": "settings"}})
    worse = {"inference": None, "tuning": None}
    assert ONE_KIND in await api.refusal("PATCH", url(namespace, "w"), worse, "application/merge-patch+json")
    await api.merge(url(namespace, "w"), {"tuning": None})
    await api.merge(url(namespace, "bare"), {"metadata": {"annotations": {"a": "b"}}})
    await api.merge(url(namespace, "bare"), {"resource": RESOURCE, "tuning": TUNING})


async def test_status_and_clean_up_pass(api: Any, namespace: str, policies: None) -> None:
    body = workspace(resource=RESOURCE, inference=INFERENCE)
    body["metadata"]["finalizers"] = ["workspace.finalizer.kaito.sh"]
    await api.create(url(namespace), body)
    await api.merge(url(namespace, "w", "status"), {"status": {"state": "Ready"}})
    await api.delete(url(namespace, "w"))
    # While it is being deleted nothing is judged any more, not even nonsense.
    await api.merge(
        url(namespace, "w"), {"inference": None, "metadata": {"finalizers": ["workspace.finalizer.kaito.sh"]}}
    )
    await api.merge(url(namespace, "w"), {"metadata": {"finalizers": None}})
    assert (await api.get(url(namespace)))["items"] == []


STRONG = "kaito.sh/allow-adapter-strength-above-one"


def adapted(strength: str, allowed: str | None = None) -> dict[str, Any]:
    adapter = {"source": {"name": "a", "image": "r/a:1"}, "strength": strength}
    body = workspace(resource=RESOURCE, inference={**INFERENCE, "adapters": [adapter]})
    body["metadata"]["annotations"] = {STRONG: allowed} if allowed is not None else {}
    return body


@pytest.mark.parametrize(
    ("strength", "allowed", "accepted"),
    [
        ("1", None, True),
        (".5", "false", True),
        ("1.000001", None, False),
        ("1.5", "false", False),
        ("1.5", "true", True),
        ("4", "true", True),
    ],
)
async def test_a_strength_above_one_needs_the_annotation(
    api: Any, namespace: str, policies: None, strength: str, allowed: str | None, accepted: bool
) -> None:
    if accepted:
        await api.create(url(namespace), adapted(strength, allowed))
    else:
        assert STRONG in await api.refusal("POST", url(namespace), adapted(strength, allowed))


async def test_the_annotation_stays_while_it_is_needed(api: Any, namespace: str, policies: None) -> None:
    await api.create(url(namespace), adapted("1.5", "true"))
    gone = {"metadata": {"annotations": {STRONG: None}}}
    refusal = await api.refusal("PATCH", url(namespace, "w"), gone, "application/merge-patch+json")
    assert STRONG in refusal
    await api.merge(url(namespace, "w"), {**gone, "inference": {"adapters": None}})
