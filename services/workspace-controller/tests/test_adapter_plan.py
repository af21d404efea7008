"""What adapters make of the pod template, what waits for a restart, and what stops a node from being asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from kaito_api import labels
from kaito_api.adapter import AdapterReason, Problem, Verdict
from kaito_api.base_shapes import base_shapes
from kaito_api.core import Node, StatefulSet
from kaito_api.resources import STATEFULSETS
from kaito_api.workspace import Workspace
from workspace_controller.adapter_check import (
    AdapterCheck,
    CheckState,
    base_of,
    check_obstacle,
    of_verdict,
    public_images,
    rank_for,
)
from workspace_controller.adapter_plan import AdapterPlan, encoded, settle, standing_plan, with_volumes
from workspace_controller.catalog import Catalog
from workspace_controller.inference import plan_inference
from workspace_controller.naming import statefulset_name
from workspace_controller.observed import ChildId, Observed
from workspace_controller.plan import plan
from workspace_controller.settings import AdapterPreflight, LoraDefaults, Settings
from workspace_controller.validation import validate

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CLAIM = {"persistentVolumeClaim": {"claimName": "poems"}}
OTHER = {"persistentVolumeClaim": {"claimName": "prose"}}
FINE = AdapterCheck(state=CheckState.KNOWN, rank=16)
BAD = AdapterCheck(state=CheckState.KNOWN, rank=16, reason="WrongBaseModel", message="made for another model")
HIGH = AdapterCheck(state=CheckState.KNOWN, rank=100)
PENDING = AdapterCheck(state=CheckState.PENDING)
UNKNOWN = AdapterCheck(state=CheckState.UNKNOWN)
ABSENT = AdapterCheck(state=CheckState.REFUSED, reason="NotFound", message="no such image; push it", look_again=7)

MakeWorkspace = Callable[..., Workspace]
MakeNode = Callable[..., Node]


def adapters(*entries: dict[str, Any]) -> str:
    return msgspec.json.encode({"inference": {"adapters": [{"source": entry} for entry in entries]}}).decode()


def image(name: str, *secrets: str) -> dict[str, Any]:
    return {"name": name, "image": f"registry.local/{name}:1", "imagePullSecrets": list(secrets)}


def volume(name: str, source: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "volumeSource": source or CLAIM}


def standing(note: AdapterPlan | str | None) -> StatefulSet:
    text = encoded(note) if isinstance(note, AdapterPlan) else note
    annotations = {labels.ADAPTER_PLAN: text} if text is not None else {}
    return msgspec.convert({"metadata": {"name": "phi", "annotations": annotations}}, StatefulSet)


@pytest.mark.parametrize(
    ("was", "rank", "now", "allowed", "expected", "held"),
    [
        (None, 0, [image("a")], False, AdapterPlan(), ""),
        (None, 128, [volume("v")], False, AdapterPlan(rank=128, volumes={"v": CLAIM}), ""),
        (AdapterPlan(), 0, [image("a"), image("b")], False, AdapterPlan(), ""),
        (AdapterPlan(), 0, [volume("v")], False, AdapterPlan(), "adapter v comes from a volume"),
        (AdapterPlan(), 0, [volume("v")], True, AdapterPlan(volumes={"v": CLAIM}), ""),
        (AdapterPlan(), 128, [image("a")], False, AdapterPlan(), "start with rank 128"),
        (AdapterPlan(), 128, [image("a")], True, AdapterPlan(rank=128), ""),
        (AdapterPlan(rank=128), 0, [], True, AdapterPlan(rank=128), ""),
        (AdapterPlan(volumes={"v": CLAIM}), 0, [], True, AdapterPlan(volumes={"v": CLAIM}), ""),
        (
            AdapterPlan(volumes={"v": CLAIM}),
            0,
            [volume("v", OTHER)],
            False,
            AdapterPlan(volumes={"v": CLAIM}),
            "v comes",
        ),
    ],
)
def test_settle(
    was: AdapterPlan | None,
    rank: int,
    now: list[dict[str, Any]],
    allowed: bool,
    expected: AdapterPlan,
    held: str,
    workspace: MakeWorkspace,
) -> None:
    found = settle(workspace(adapters(*now)), rank, standing(was) if was is not None else None, allowed=allowed)
    assert found.plan == expected
    assert held in found.held
    assert bool(held) == bool(found.held)


def test_the_note_is_read_back_and_junk_counts_as_none() -> None:
    noted = AdapterPlan(rank=128, volumes={"v": CLAIM})
    assert standing_plan(standing(noted)) == noted
    assert standing_plan(standing("{")) is None
    assert standing_plan(standing(None)) is None


def test_the_template_sees_the_volumes_of_the_plan_and_the_images_of_the_spec(workspace: MakeWorkspace) -> None:
    given = workspace(adapters(image("a", "pull"), volume("v", OTHER)))
    seen = with_volumes(given, AdapterPlan(volumes={"v": CLAIM}))
    assert seen.inference is not None
    assert [(found.source.name, found.source.volume_source) for found in seen.inference.adapters] == [
        ("a", None),
        ("v", CLAIM),
    ]
    assert seen.inference.adapters[0].source.image_pull_secrets == ["pull"]


@pytest.mark.parametrize(
    ("checks", "slots", "expected"),
    [({}, 4, 0), ({"a": FINE}, 4, 0), ({"a": HIGH}, 4, 128), ({"a": HIGH}, 0, 0), ({"a": BAD, "b": PENDING}, 4, 0)],
)
def test_rank(checks: dict[str, AdapterCheck], slots: int, expected: int) -> None:
    assert rank_for(checks, LoraDefaults(slots=slots, rank=64)) == expected


def test_images_with_a_secret_are_left_to_the_pod(workspace: MakeWorkspace) -> None:
    given = workspace(adapters(image("a"), image("b", "secret"), volume("v")))
    assert public_images(given) == ("registry.local/a:1",)


@pytest.mark.parametrize(
    ("checks", "reason"),
    [
        ({}, None),
        ({"registry.local/a:1": FINE}, None),
        ({"registry.local/a:1": UNKNOWN}, None),
        ({"registry.local/a:1": PENDING}, "AdaptersPending"),
        ({"registry.local/a:1": BAD}, "AdapterFailed"),
    ],
)
def test_no_node_before_the_adapters_are_known(
    checks: dict[str, AdapterCheck],
    reason: str | None,
    workspace: MakeWorkspace,
    catalog: Catalog,
    settings: Settings,
) -> None:
    given = workspace(adapters(image("a")))
    assert given.inference is not None
    obstacle = check_obstacle(given.inference.adapters, checks, buys=True)
    assert (obstacle.reason if obstacle else None) == reason
    decision = plan(Observed(workspace=given, adapter_checks=checks), catalog, settings, NOW)
    assert bool(decision.claims) == (reason is None)
    if reason == "AdapterFailed":
        assert decision.status is not None
        assert (decision.status.adapters[0].state, decision.status.adapters[0].reason) == ("Failed", "WrongBaseModel")
        assert decision.requeue_after


def test_an_image_that_is_not_there_buys_no_node_and_is_looked_at_again(
    workspace: MakeWorkspace, catalog: Catalog, settings: Settings
) -> None:
    checks = {"registry.local/a:1": ABSENT, "registry.local/b:1": FINE}
    given = Observed(workspace=workspace(adapters(image("b"), image("a"))), adapter_checks=checks)
    decision = plan(given, catalog, settings, NOW)
    assert not decision.claims
    assert decision.requeue_after == ABSENT.look_again
    assert decision.status is not None
    told = {found.type: (found.status, found.reason, found.message) for found in decision.status.conditions}
    text = (
        "Adapter a cannot be served: NotFound: no such image; push it. No node is requested until it can be pulled; "
        "the registry is asked again by itself."
    )
    assert told["WorkspaceSucceeded"] == ("False", "AdapterFailed", text)
    entries = [(found.name, found.state, found.reason, found.message) for found in decision.status.adapters]
    assert entries == [("b", "Pending", "", ""), ("a", "Failed", "NotFound", "no such image; push it")]
    there = plan(
        msgspec.structs.replace(given, adapter_checks={**checks, "registry.local/a:1": FINE}), *(catalog, settings, NOW)
    )
    assert there.claims


def test_an_image_for_which_a_secret_is_named_is_left_to_the_pod_whatever_others_see(
    workspace: MakeWorkspace, catalog: Catalog, settings: Settings
) -> None:
    given = workspace(adapters(image("a", "pull")))
    decision = plan(Observed(workspace=given, adapter_checks={"registry.local/a:1": ABSENT}), catalog, settings, NOW)
    assert decision.claims
    assert decision.status is not None
    assert [(found.state, found.reason) for found in decision.status.adapters] == [("Pending", "")]


@pytest.mark.parametrize(("check", "served"), [(ABSENT, True), (BAD, False)])
def test_on_brought_nodes_the_model_is_served_while_an_image_is_missing(
    check: AdapterCheck, served: bool, workspace: MakeWorkspace, node: MakeNode, catalog: Catalog, settings: Settings
) -> None:
    brought = node("n", {"apps": "phi", labels.GPU_PRODUCT: "NVIDIA-A100-80GB-PCIe"})
    given = workspace(adapters(image("a")))
    given = msgspec.structs.replace(given, resource=msgspec.structs.replace(given.resource, instance_type=""))
    observed = Observed(workspace=given, nodes=(brought,), adapter_checks={"registry.local/a:1": check})
    decision = plan(observed, catalog, settings, NOW)
    assert (STATEFULSETS in {found.resource for found in decision.applies}) == served
    assert decision.status is not None
    assert decision.status.adapters[0].reason == check.reason


@pytest.mark.parametrize("check", [BAD, ABSENT])
def test_what_runs_is_not_stopped_by_a_bad_adapter(
    check: AdapterCheck,
    running: Callable[..., Observed],
    workspace: MakeWorkspace,
    catalog: Catalog,
    settings: Settings,
) -> None:
    given = workspace(adapters(image("a")))
    alone = plan(running(given, AdapterPlan()), catalog, settings, NOW)
    decision = plan(running(given, AdapterPlan(), {"registry.local/a:1": check}), catalog, settings, NOW)
    assert decision.claims
    assert (decision.claims, decision.applies, decision.deletes) == (alone.claims, alone.applies, alone.deletes)
    assert decision.status is not None
    assert [(found.state, found.reason) for found in decision.status.adapters] == [("Failed", check.reason)]


@pytest.fixture
def running(workspace: MakeWorkspace, catalog: Catalog, settings: Settings) -> Callable[..., Observed]:
    """A snapshot in which the workload stands as it was made with a plan, and is to be looked at again."""

    def observed(given: Workspace, noted: AdapterPlan, checks: dict[str, AdapterCheck] | None = None) -> Observed:
        sizing = validate(workspace(), catalog, settings).sizing
        assert sizing is not None
        body = plan_inference(workspace(), None, sizing, settings)[-1].body
        owner = {"apiVersion": "v", "kind": "Workspace", "name": "phi", "uid": given.metadata.uid, "controller": True}
        notes = {labels.ADAPTER_PLAN: encoded(noted), labels.APPLIED_HASH: "old"}
        metadata = {**body["metadata"], "uid": "s", "ownerReferences": [owner], "annotations": notes}
        found = msgspec.convert({**body, "metadata": metadata}, StatefulSet)
        key = ChildId(STATEFULSETS.plural, statefulset_name("phi"))
        return Observed(workspace=given, children={key: found}, adapter_checks=checks or {})

    return observed


def applied(given: Observed, catalog: Catalog, settings: Settings) -> tuple[dict[str, Any], Any]:
    decision = plan(given, catalog, settings, NOW)
    (body,) = [found.body for found in decision.applies if found.resource is STATEFULSETS]
    return body["spec"]["template"], decision.status


def test_a_volume_waits_for_leave_and_images_do_not(
    running: Callable[..., Observed], workspace: MakeWorkspace, catalog: Catalog, settings: Settings
) -> None:
    plain, _ = applied(running(workspace(), AdapterPlan()), catalog, settings)
    live, _ = applied(running(workspace(adapters(image("a"), image("b"))), AdapterPlan()), catalog, settings)
    held, status = applied(running(workspace(adapters(volume("v"))), AdapterPlan()), catalog, settings)
    assert plain == live == held
    condition = next(found for found in status.conditions if found.type == "AdaptersReady")
    assert (condition.status, condition.reason) == ("False", "RestartRequired")
    assert labels.ADAPTER_RESTART in condition.message
    metadata = msgspec.structs.replace(workspace().metadata, annotations={labels.ADAPTER_RESTART: labels.ALLOWED})
    allowed = msgspec.structs.replace(workspace(adapters(volume("v"))), metadata=metadata)
    rolled, _ = applied(running(allowed, AdapterPlan()), catalog, settings)
    assert any(found["name"].startswith("adapter-") for found in rolled["spec"]["volumes"])


def test_a_rank_that_is_known_before_the_start_is_planned(
    running: Callable[..., Observed], workspace: MakeWorkspace, catalog: Catalog, settings: Settings
) -> None:
    given, checks = workspace(adapters(image("a"))), {"registry.local/a:1": HIGH}
    held, status = applied(running(given, AdapterPlan(), checks), catalog, settings)
    assert "--max-lora-rank=64" in held["spec"]["containers"][0]["command"]
    assert status.plan.engine.max_lora_rank == 64
    assert any("rank 128" in found.message for found in status.conditions)
    rolled, _ = applied(running(given, AdapterPlan(rank=128), checks), catalog, settings)
    assert "--max-lora-rank=128" in rolled["spec"]["containers"][0]["command"]


def test_the_catalog_s_shape_judges_unless_other_weights_are_served(catalog: Catalog) -> None:
    preset = catalog.preset("phi-3-mini-4k-instruct")
    assert preset is not None
    base = base_of(preset, AdapterPreflight.FULL)
    assert base is not None
    shapes = base_shapes(base)
    assert shapes is not None
    assert shapes["qkv_proj"] == (3072, 9216)
    assert "lm_head" not in shapes
    assert base_of(preset, AdapterPreflight.LIMITS) is None


def test_a_verdict_with_a_problem_is_a_refusal() -> None:
    problem = Problem(AdapterReason.METHOD_UNSUPPORTED, "DoRA")
    bad = Verdict(problems=(problem,), warnings=(), rank=8, method="lora", parameters=1, base_name="")
    assert of_verdict(bad) == AdapterCheck(state=CheckState.KNOWN, rank=8, reason="MethodUnsupported", message="DoRA")
    assert not of_verdict(msgspec.structs.replace(bad, problems=())).reason
