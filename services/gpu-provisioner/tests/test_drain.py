"""A drain that is refused for one pod: said with the pod and the cause, and no reason to leave the other pods where they are."""

import json
import uuid
from pathlib import Path

import pytest
from provisioner_stage import stage

from gpu_provisioner.claims.termination import retry_seconds
from kaito_api.meta import Key
from kaito_api.resources import NODECLAIMS, PODS
from kaito_local.pytest_plugin import ApiServer
from kubecore.client import Client
from kubecore.errors import Forbidden, ServerError, TooManyRequests, TransportError
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import fast_clock

BUDGET = """
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: NAME, namespace: NAMESPACE}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: twice}}}
"""
BUSY = TooManyRequests(429, "TooManyRequests", "the budget forbids it")
BROKEN = ServerError(500, "InternalError", "more than one PodDisruptionBudget")


async def running_pod(client: Client, namespace: str, name: str, node: str) -> None:
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "x"}], "terminationGracePeriodSeconds": 0}
    await client.create(
        PODS, {"metadata": {"name": name, "namespace": namespace, "labels": {"app": name}}, "spec": spec}
    )
    running = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await client.patch(PODS, Key(namespace, name), {"status": running}, subresource="status")


@pytest.mark.integration
@pytest.mark.timeout(300)
async def test_a_pod_that_the_apiserver_will_not_evict_holds_up_no_other_pod(
    apiserver: ApiServer, tmp_path: Path, namespace: str
) -> None:
    """The apiserver answers 500 for a pod of two budgets, now and always."""
    name = f"d{uuid.uuid4().hex[:9]}"
    async with fast_clock(10) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        await s.claim(name)
        await s.ready(name)
        node = (await s.get(name)).status.node_name
        for budget in ("one", "two"):
            await apiserver.kubectl(
                "apply", "-f", "-", stdin=BUDGET.replace("NAMESPACE", namespace).replace("NAME", budget)
            )
        for pod in ("twice", "zz-other"):  # in the order in which they are asked to go
            await running_pod(s.client, namespace, pod, node)
        await s.client.delete(NODECLAIMS, Key("", name))

        async def alone() -> bool:
            return [p.metadata.name for p in await s.client.list(PODS, namespace)] == ["twice"]

        await eventually(alone, timeout=90)
        said = await eventually(lambda: s.event(node, "FailedDraining"), timeout=90)
        assert f"pod {namespace}/twice cannot be evicted" in said
        assert "more than one PodDisruptionBudget" in said

        async def told() -> bool:
            status, reason, message = await s.condition(name, "Drained")
            return (status, reason) == ("Unknown", "Draining") and "more than one PodDisruptionBudget" in message

        await eventually(told, timeout=90)
        assert s.calls("delete") == []
        await apiserver.kubectl("delete", "pdb", "two", "-n", namespace)
        allowed = {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 1, "desiredHealthy": 0}
        patch = json.dumps({"status": {**allowed, "expectedPods": 1}})
        where = ("-n", namespace, "pdb", "one", "--subresource=status", "--type=merge")
        await apiserver.kubectl("patch", *where, "-p", patch)
        await eventually(lambda: s.is_gone(name), timeout=90)


@pytest.mark.parametrize(
    ("errors", "lasts", "seconds"),
    [
        ([], 0.0, 60.0),
        ([BUSY], 3600.0, 5.0),
        ([BROKEN], 0.0, 5.0),
        ([BROKEN], 100.0, 25.0),
        ([BROKEN], 3600.0, 60.0),
        ([Forbidden(403, "Forbidden", "policy"), BUSY], 3600.0, 5.0),
        ([TransportError("timeout")], 100.0, 25.0),
    ],
)
def test_a_budget_is_asked_again_soon_and_other_refusals_ever_more_seldom(
    errors: list[Exception], lasts: float, seconds: float
) -> None:
    assert retry_seconds(errors, lasts) == seconds
