"""What `make run` says while it waits, from what it observes."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kaito_api.core.pod import (
    ContainerState,
    ContainerStatus,
    Pod,
    PodCondition,
    PodSpec,
    PodStatus,
    Terminated,
    Waiting,
)
from kaito_api.labels import report_annotation
from kaito_api.machine import Machine, MachineStatus
from kaito_api.meta import Condition, ObjectMeta
from kaito_api.nodeclaim import NodeClaim, NodeClaimSpec, NodeClaimStatus, NodeClassRef
from kaito_api.report import Report, encode
from kaito_api.workspace import Workspace
from kaito_api.workspace_status import EnginePlan, PlanStatus, TuningStatus, WorkspaceStatus
from kaito_local.errors import LocalError
from kaito_local.run.existing import check_context, parse_registry
from kaito_local.run.local import end_all
from kaito_local.run.phases import Phases
from kaito_local.run.story import complaint, is_ready, is_trained, sentences

IMAGE = "kaito.local/model-server:1"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _workspace(*conditions: Condition, plan: PlanStatus | None = None, generation: int = 1) -> Workspace:
    meta = ObjectMeta(name="phi", namespace="default", generation=generation)
    return Workspace(metadata=meta, status=WorkspaceStatus(conditions=list(conditions), plan=plan))


def _succeeded(status: str = "True", generation: int = 1) -> Condition:
    return Condition(
        type="WorkspaceSucceeded",
        status=status,
        reason="workspaceSucceeded",
        message="",
        observed_generation=generation,
    )


def _pod(
    *statuses: ContainerStatus,
    ready: bool = False,
    node: str = "n1",
    scheduled: str = "True",
    why: str = "",
    annotations: dict[str, str] | None = None,
) -> Pod:
    conditions = [PodCondition(type="PodScheduled", status=scheduled, message=why)]
    conditions.append(PodCondition(type="Ready", status=str(ready)))
    return Pod(
        metadata=ObjectMeta(name="phi-0", namespace="default", annotations=annotations or {}),
        spec=PodSpec(node_name=node),
        status=PodStatus(conditions=conditions, container_statuses=list(statuses)),
    )


def _server(image: str = IMAGE, **fields: object) -> ContainerStatus:
    return ContainerStatus(name="model-server", image=image, state=ContainerState(**fields))  # type: ignore[arg-type]  # a table


@pytest.mark.parametrize(
    ("workspace", "pods", "ready"),
    [
        (None, [], False),
        (_workspace(_succeeded()), [], False),
        (_workspace(_succeeded()), [_pod(_server(), ready=True)], True),
        (_workspace(_succeeded("False")), [_pod(_server(), ready=True)], False),
        (_workspace(_succeeded(), generation=2), [_pod(_server(), ready=True)], False),
        (_workspace(_succeeded()), [_pod(_server(), ready=False)], False),
        (_workspace(_succeeded()), [_pod(_server("kaito.local/model-server:0"), ready=True)], False),
    ],
    ids=["gone", "no pod", "serves", "says no", "speaks of an older spec", "pod not ready", "pod of an older build"],
)
def test_ready_means_this_spec_and_this_build(workspace: Workspace | None, pods: list[Pod], ready: bool) -> None:
    assert is_ready(workspace, pods, IMAGE) is ready


def test_the_plan_is_told_in_words() -> None:
    plan = PlanStatus(model="phi-3-mini", nodes=1, instance_type="Standard_NC6s_v3", engine=EnginePlan(variant="cpu"))
    (said,) = sentences(_workspace(plan=plan), [], [])
    assert said == "the controller plans phi-3-mini on 1 node of type Standard_NC6s_v3, engine cpu"


def _claim(kind: type[NodeClaim] | type[Machine], type_: str, reason: str) -> NodeClaim | Machine:
    meta = ObjectMeta(name="w1")
    failed = [Condition(type=type_, status="False", reason=reason, message="no quota")]
    if kind is Machine:
        return Machine(metadata=meta, status=MachineStatus(conditions=failed))
    spec = NodeClaimSpec(node_class_ref=NodeClassRef(group="g", kind="k", name="n"), requirements=[])
    return NodeClaim(metadata=meta, spec=spec, status=NodeClaimStatus(conditions=failed))


@pytest.mark.parametrize(("kind", "type_"), [(NodeClaim, "Launched"), (Machine, "MachineLaunched")])
def test_a_claim_without_a_machine_says_why(kind: type[NodeClaim] | type[Machine], type_: str) -> None:
    said = sentences(_workspace(), [_claim(kind, type_, "QuotaExceeded")], [])
    assert said == ["a node is asked for (claim w1)", "the claim w1 has no machine: QuotaExceeded: no quota"]


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (_pod(node="", scheduled="False", why="0/2 nodes"), "pod phi-0 waits for a place: 0/2 nodes"),
        (
            _pod(_server(waiting=Waiting(reason="ErrImagePull", message="no such host"))),
            "the model server cannot start: ErrImagePull: no such host",
        ),
        (
            _pod(_server(terminated=Terminated(exit_code=137, reason="OOMKilled"))),
            "the model server ended with status 137: OOMKilled",
        ),
        (
            _pod(_server(), annotations={report_annotation("model-server"): "junk"}),
            "pod phi-0 is placed on node n1",
        ),
    ],
    ids=["unschedulable", "image", "oom", "a report that is none"],
)
def test_pods_are_told_in_words(pod: Pod, expected: str) -> None:
    assert sentences(_workspace(), [], [pod])[-1] == expected


def test_last_words_of_a_container_are_its_report() -> None:
    report = encode(Report(state="Failed", at=NOW, reason="WeightsMissing", message="no such tag")).decode()
    pod = _pod(_server(terminated=Terminated(exit_code=66, message=report)))
    assert "the model server ended with status 66: WeightsMissing: no such tag" in sentences(_workspace(), [], [pod])


def test_waiting_is_not_told_twice_but_trouble_is() -> None:
    waiting = Condition(
        type="InferenceReady", status="False", reason="WorkspaceInferenceStatusPending", message="0 of 1"
    )
    trouble = Condition(type="InferenceReady", status="False", reason="ImagePullError", message="no such image")
    assert sentences(_workspace(waiting), [], []) == []
    assert sentences(_workspace(trouble), [], []) == ["InferenceReady is False: ImagePullError: no such image"]
    assert "WorkspaceInferenceStatusPending" in complaint(_workspace(waiting), [])


def test_the_table_of_phases_has_every_phase_and_the_sum() -> None:
    phases = Phases()
    with phases.phase("cluster"):
        pass
    with pytest.raises(RuntimeError), phases.phase("model"):
        raise RuntimeError
    table = phases.table().splitlines()
    assert [line.split()[0] for line in table] == ["cluster", "in"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("registry.example/x", ("registry.example/x", False)),
        ("https://registry.example/x/", ("registry.example/x", False)),
        ("http://10.0.0.1:5000", ("10.0.0.1:5000", True)),
    ],
)
def test_only_an_explicit_scheme_means_plain_http(text: str, expected: tuple[str, bool]) -> None:
    assert parse_registry(text) == expected


def _tuning(state: str, tuning: TuningStatus | None = None) -> Workspace:
    failed = _succeeded("False")
    status = WorkspaceStatus(state=state, conditions=[failed], tuning=tuning)
    return Workspace(metadata=ObjectMeta(name="tune", namespace="default", generation=1), status=status)


def test_a_tuning_is_done_when_it_says_so_and_a_failed_one_is_told_at_once() -> None:
    assert not is_trained(_tuning("Running"))
    assert is_trained(_tuning("Succeeded"))
    with pytest.raises(LocalError, match="WorkspaceSucceeded=False"):
        is_trained(_tuning("Failed"))


def test_training_is_told_with_its_figures() -> None:
    figures = TuningStatus(
        state="Training", progress="40% (120/300)", loss="0.51", tokens_per_second="812.3", eta_seconds=70
    )
    said = sentences(_tuning("Running", figures), [], [])
    assert "training: 40% (120/300), loss 0.51, 812.3 tokens/s, 70 s left" in said
    early = TuningStatus(state="Fetching", progress="Fetching")
    assert not [line for line in sentences(_tuning("Running", early), [], []) if line.startswith("training")]


def test_a_context_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text("contexts: [{name: one}, {name: two}]")
    check_context("two", kubeconfig)
    with pytest.raises(LocalError, match="no context 'nope'; it has: one, two"):
        check_context("nope", kubeconfig)
    kubeconfig.write_text("")
    with pytest.raises(LocalError, match="it has: none"):
        check_context("one", kubeconfig)


async def test_what_cannot_be_ended_keeps_nothing_else_alive() -> None:
    ended = []

    async def one() -> None:
        ended.append("one")
        raise LocalError("a mount is still busy")

    async def two() -> None:
        ended.append("two")
        raise OSError("no such device")

    async def three() -> None:
        ended.append("three")

    with pytest.raises(LocalError, match="a mount is still busy\nno such device"):
        await end_all(one, two, three)
    assert ended == ["one", "two", "three"]
