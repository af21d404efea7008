"""Which change of a pod template makes new pods at once: the user's does, the operator's waits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kaito_api import labels
from kaito_api.core import StatefulSet
from kaito_api.resources import STATEFULSETS
from kaito_api.workspace import Workspace
from workspace_controller.adapter_plan import AdapterPlan
from workspace_controller.inference_config import ConfigSource
from workspace_controller.manifest import Manifest, manifest
from workspace_controller.options import read_options
from workspace_controller.rollout import asked_of, pending, with_rollout

WORKSPACE: dict[str, Any] = {
    "metadata": {"name": "phi", "namespace": "team"},
    "resource": {"instanceType": "Standard_NC6s_v3"},
    "inference": {"preset": {"name": "phi-4"}, "config": "tuned"},
}
OLD = {"spec": {"containers": [{"image": "server:1"}]}}
NEW = {"spec": {"containers": [{"image": "server:2"}]}}


def planned(template: dict[str, Any]) -> Manifest:
    return manifest(STATEFULSETS, {"name": "phi", "annotations": {"kept": "yes"}}, spec={"template": template})


def stored(applied: Manifest, **status: Any) -> StatefulSet:
    meta = applied.body["metadata"]
    strategy = {"type": applied.body["spec"]["updateStrategy"]["type"]}
    body = {"metadata": {**meta, "generation": 2}, "spec": {"updateStrategy": strategy}, "status": status}
    return msgspec.convert(body, StatefulSet)


def strategies(*steps: tuple[dict[str, Any], str, bool]) -> list[str]:
    """Return the strategy after each (template, asked, allowed), every one applied to what the one before it left."""
    found, seen = None, []
    for template, asked, allowed in steps:
        applied = with_rollout(planned(template), found, asked, allowed=allowed)
        assert applied.body["metadata"]["annotations"]["kept"] == "yes"
        found = stored(applied)
        seen.append(found.spec.update_strategy.type)
    return seen


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([(OLD, "a", False), (OLD, "a", False)], ["RollingUpdate"] * 2, id="nothing changes"),
        pytest.param([(OLD, "a", False), (NEW, "b", False)], ["RollingUpdate"] * 2, id="the user's change"),
        pytest.param([(OLD, "a", False), (NEW, "a", False)], ["RollingUpdate", "OnDelete"], id="the operator's"),
        pytest.param(
            [(OLD, "a", False), (NEW, "a", False), (NEW, "a", False), (NEW, "a", True), (NEW, "a", False)],
            ["RollingUpdate", "OnDelete", "OnDelete", "RollingUpdate", "RollingUpdate"],
            id="it waits until it is allowed, once",
        ),
        pytest.param(
            [(OLD, "a", False), (NEW, "a", False), (OLD, "a", False)],
            ["RollingUpdate", "OnDelete", "OnDelete"],
            id="an upgrade rolled back",
        ),
        pytest.param(
            [(OLD, "a", False), (NEW, "a", False), (NEW, "b", False), (NEW, "b", False)],
            ["RollingUpdate", "OnDelete", "RollingUpdate", "RollingUpdate"],
            id="an edit takes the upgrade along",
        ),
        pytest.param([(OLD, "a", True), (NEW, "a", True)], ["RollingUpdate"] * 2, id="allowed beforehand"),
    ],
)
def test_strategy(steps: list[tuple[dict[str, Any], str, bool]], expected: list[str]) -> None:
    assert strategies(*steps) == expected


def test_a_statefulset_of_a_release_that_did_not_say_what_was_asked_is_rolled() -> None:
    found = msgspec.convert({"metadata": {"name": "phi", "annotations": {labels.TEMPLATE_HASH: "x"}}}, StatefulSet)
    assert (
        with_rollout(planned(NEW), found, "a", allowed=False).body["spec"]["updateStrategy"]["type"] == "RollingUpdate"
    )


def asked(
    edit: dict[str, Any] | None = None, config: str = "vllm: {}", plan: AdapterPlan | None = None, **notes: str
) -> str:
    body = {**WORKSPACE, **(edit or {})}
    workspace = msgspec.convert(body, Workspace)
    source = ConfigSource(found=True, data={"inference_config.yaml": config})
    return asked_of(
        workspace,
        source,
        read_options({f"kaito.sh/{k.replace('_', '-')}": v for k, v in notes.items()}),
        plan or AdapterPlan(),
    )


def test_what_the_user_decides() -> None:
    inference = WORKSPACE["inference"]
    preset = {"name": "phi-4", "presetOptions": {"image": "mirror/phi-4:2"}}
    decided = [
        asked(),
        asked({"inference": {**inference, "preset": preset}}),
        asked({"resource": {"instanceType": "Standard_NC12s_v3"}}),
        asked(config="vllm: {seed: 1}"),
        asked(plan=AdapterPlan(rank=128)),
        asked(weights_from="hf"),
        asked(weights_claim="disk"),
        asked(api_key_secret="keys"),
        asked(performance_mode="throughput"),
        asked(lora="disabled"),
    ]
    assert len(set(decided)) == len(decided)


def test_what_comes_and_goes_while_the_engine_runs_is_no_decision_about_pods() -> None:
    adapter = {"source": {"name": "green", "image": "r/green:1"}, "strength": "0.5"}
    edited = {"inference": {**WORKSPACE["inference"], "adapters": [adapter]}}
    same = [asked(edited), asked(adapter_restart="allowed"), asked(upgrade_restart="allowed"), asked(enablelb="True")]
    assert set(same) == {asked()}


@pytest.mark.parametrize(
    ("template", "status", "waits"),
    [
        (NEW, {"currentRevision": "1", "updateRevision": "2", "replicas": 1}, True),
        (NEW, {"currentRevision": "1", "updateRevision": "2", "replicas": 1, "updatedReplicas": 1}, False),
        (NEW, {"currentRevision": "1", "updateRevision": "1", "replicas": 1}, False),
        (NEW, {"currentRevision": "1", "updateRevision": "2", "replicas": 1, "observedGeneration": 1}, False),
        (OLD, {"currentRevision": "1", "updateRevision": "2", "replicas": 1}, False),
    ],
)
def test_pending(template: dict[str, Any], status: dict[str, Any], waits: bool) -> None:
    before = stored(with_rollout(planned(OLD), None, "a", allowed=False))
    found = stored(with_rollout(planned(template), before, "a", allowed=False), **{"observedGeneration": 2, **status})
    assert pending(found) is waits
