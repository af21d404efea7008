"""NodeClaim and Machine: the rules that upstream has, and nothing that upstream would take and we would not."""

import copy
from typing import Any

import pytest

pytestmark = pytest.mark.integration

NODECLAIMS = "/apis/karpenter.sh/v1/nodeclaims"
MACHINES = "/apis/karpenter.sh/v1alpha5/machines"
REF = {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"}
TYPE = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]}
CLAIM: dict[str, Any] = {
    "apiVersion": "karpenter.sh/v1",
    "kind": "NodeClaim",
    "metadata": {"name": "contract"},
    "spec": {
        "nodeClassRef": REF,
        "requirements": [
            TYPE,
            {"key": "karpenter.sh/nodepool", "operator": "In", "values": ["kaito"]},
            {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
            {"key": "karpenter.azure.com/sku-name", "operator": "In", "values": ["Standard_NC6s_v3"]},
        ],
        "resources": {"requests": {"storage": "87Gi", "nvidia.com/gpu": 1}},
        "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
    },
}


def with_spec(**changes: Any) -> dict[str, Any]:
    claim = copy.deepcopy(CLAIM)
    claim["spec"] |= changes
    return claim


async def test_a_claim_of_kaito_is_accepted_and_gets_upstreams_default(api: Any) -> None:
    stored = await api.create(NODECLAIMS, CLAIM)
    try:
        assert stored["spec"] == {**CLAIM["spec"], "expireAfter": "720h"}
        refusal = await api.refusal(
            "PATCH", f"{NODECLAIMS}/contract", {"spec": {"taints": None}}, "application/merge-patch+json"
        )
        assert "spec is immutable" in refusal
        await api.merge(f"{NODECLAIMS}/contract", {"metadata": {"labels": {"a": "b"}}})
        await api.merge(f"{NODECLAIMS}/contract/status", {"status": {"providerID": "azure:///x"}})
    finally:
        await api.delete(f"{NODECLAIMS}/contract")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodeClassRef": {**REF, "name": ""}}, "name may not be empty"),
        ({"nodeClassRef": {**REF, "kind": ""}}, "kind may not be empty"),
        ({"nodeClassRef": {**REF, "group": ""}}, "group may not be empty"),
        ({"nodeClassRef": {**REF, "group": "a/b"}}, "should match"),
        ({"requirements": [{**TYPE, "values": []}]}, "must have a value defined"),
        ({"requirements": [{"key": "a", "operator": "Gt", "values": ["-1"]}]}, "single positive integer value"),
        ({"requirements": [{**TYPE, "minValues": 2}]}, "at least that many values"),
        ({"requirements": [{**TYPE, "minValues": 51}]}, "less than or equal to 50"),
        ({"requirements": [{**TYPE, "operator": "in"}]}, "Unsupported value"),
        ({"requirements": [{**TYPE, "key": "kubernetes.io/hostname"}]}, "is restricted"),
        ({"requirements": [{**TYPE, "key": "x.k8s.io/a"}]}, 'label domain "k8s.io" is restricted'),
        ({"requirements": [{**TYPE, "key": "karpenter.sh/other"}]}, 'label domain "karpenter.sh" is restricted'),
        ({"requirements": [TYPE] * 101}, "at most 100 items"),
        ({"taints": [{"key": "a", "effect": "Never"}]}, "Unsupported value"),
        ({"expireAfter": "1d"}, "should match"),
        ({"terminationGracePeriod": "soon"}, "should match"),
        ({"resources": {"requests": {"storage": "much"}}}, "should match"),
    ],
)
async def test_a_wrong_claim_is_refused(api: Any, changes: Any, message: str) -> None:
    assert message in await api.refusal("POST", f"{NODECLAIMS}?dryRun=All", with_spec(**changes))


@pytest.mark.parametrize("kind", ["NodeClaim", "Machine"])
async def test_every_field_is_kept(api: Any, specimens: Any, kind: str) -> None:
    sent = copy.deepcopy(specimens[kind])
    path = NODECLAIMS if kind == "NodeClaim" else MACHINES
    sent["metadata"]["name"] = "full"
    if kind == "NodeClaim":
        sent["spec"]["requirements"][0]["minValues"] = 1
    await api.create(path, sent)
    try:
        stored = await api.merge(f"{path}/full/status", {"status": sent["status"]})
        assert {"spec": stored["spec"], "status": stored["status"]} == {"spec": sent["spec"], "status": sent["status"]}
    finally:
        await api.delete(f"{path}/full")


async def test_a_machine_has_no_required_fields_and_may_change(api: Any) -> None:
    await api.create(MACHINES, {"apiVersion": "karpenter.sh/v1alpha5", "kind": "Machine", "metadata": {"name": "m"}})
    try:
        await api.merge(f"{MACHINES}/m", {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}})
    finally:
        await api.delete(f"{MACHINES}/m")
