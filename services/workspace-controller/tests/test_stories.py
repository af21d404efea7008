"""Whole lives of a Workspace, step by step: what happens to it, and what is decided about that.

Each file of `stories/` is a list of steps. `do` changes the world, `decides` is the plan's answer, which is then carried
out on the world before the next step. After every step the plan is made once more: it must have nothing left to do.
`UPDATE_GOLDENS=1 pytest ...` writes the answers anew; read the diff before you keep it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from kaito_api import labels
from kaito_api.core import ControllerRevision, Job, Node, Pod, StatefulSet
from kaito_api.meta import Key
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import JOBS, STATEFULSETS
from kaito_api.workspace import Workspace
from workspace_controller.catalog import Catalog
from workspace_controller.decision import Decision, Finalizer
from workspace_controller.inference_config import CONFIG_KEY, ConfigSource
from workspace_controller.manifest import Manifest
from workspace_controller.observed import ChildId, Observed
from workspace_controller.output_tags import OutputRival
from workspace_controller.plan import plan
from workspace_controller.settings import Settings
from workspace_controller.tuning.config import CONFIG_KEY as TRAINING_KEY

STORIES = Path(__file__).parent / "stories"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STRANGER = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other", "uid": "other", "controller": True}


class World:
    """A pure stand-in for the cluster: what a decision writes stands at once, and a step of a story changes it."""

    def __init__(self, workspace: Workspace) -> None:
        self.observed = Observed(workspace=workspace)
        self.now = NOW
        self.uids = 0
        self.specs: dict[str, Any] = {}

    def change(self, **fields: Any) -> None:
        self.observed = msgspec.structs.replace(self.observed, **fields)

    def metadata(self, **fields: Any) -> None:
        workspace = self.observed.workspace
        self.change(
            workspace=msgspec.structs.replace(workspace, metadata=msgspec.structs.replace(workspace.metadata, **fields))
        )

    # --- what a story may do ------------------------------------------------------------------------------------------
    def do(self, name: str, value: Any) -> None:
        getattr(self, f"do_{name}")(value)

    def do_edit(self, changes: dict[str, Any]) -> None:
        content = msgspec.to_builtins(self.observed.workspace)
        for part, value in changes.items():
            content[part] = {**content[part], **value}
        content["metadata"]["generation"] += 1
        self.change(workspace=msgspec.convert(content, Workspace))

    def do_claim(self, conditions: dict[str, str]) -> None:
        """Set the conditions of all claims: `{Launched: "False QuotaExceeded no cores"}`; a Ready one has its node."""
        changed = []
        for claim in self.observed.claims:
            node = f"node-{claim.metadata.name}" if conditions.get("Ready") == "True" else ""
            stated = [_condition(type_, text, self.now) for type_, text in conditions.items()]
            status = {"nodeName": node, "conditions": stated}
            changed.append(msgspec.convert({**msgspec.to_builtins(claim), "status": status}, NodeClaim))
            if node:
                self.do_node({"name": node, "labels": claim.metadata.labels})
        self.change(claims=tuple(changed))

    def do_node(self, given: dict[str, Any]) -> None:
        """Register or change a node: name, labels, ready (default true), gpus (default 1), gone."""
        old = {node.metadata.name: node for node in self.observed.nodes}
        name = given.get("name") or next(iter(old))
        found = old.pop(name, None)
        if not given.get("gone"):
            known = found.metadata.labels if found is not None else {}
            status = {
                "allocatable": {"nvidia.com/gpu": str(given.get("gpus", 1))},
                "conditions": [{"type": "Ready", "status": "True" if given.get("ready", True) else "Unknown"}],
            }
            content = {"metadata": {"name": name, "labels": {**known, **given.get("labels", {})}}, "status": status}
            old[name] = msgspec.convert(content, Node)
        self.change(nodes=tuple(old.values()))

    def do_pod(self, status: dict[str, Any] | None) -> None:
        """Let pod 0 of the workload have this status (on the first node), or be gone."""
        if status is None:
            self.change(pods=())
            return
        status = dict(status)
        node = next(iter(self.observed.nodes))
        metadata = {"name": "phi-0", "namespace": "team", "annotations": status.pop("annotations", {})}
        ready = status.pop("ready", False)
        status["conditions"] = [{"type": "Ready", "status": "True" if ready else "False"}]
        spec = {"nodeName": node.metadata.name}
        self.change(pods=(msgspec.convert({"metadata": metadata, "spec": spec, "status": status}, Pod),))
        statefulset = self.observed.statefulset
        if statefulset is not None:
            content = msgspec.to_builtins(statefulset)
            content["status"] = {"observedGeneration": statefulset.metadata.generation, "readyReplicas": int(ready)}
            self._put(STATEFULSETS.plural, msgspec.convert(content, StatefulSet))

    def do_job(self, status: dict[str, Any] | None) -> None:
        """Let the Job have this status; `Complete` and `Failed` are conditions. None: somebody deletes it."""
        if status is None:
            self._drop(ChildId(JOBS.plural, "phi"))
            return
        content = msgspec.to_builtins(self.observed.children[ChildId(JOBS.plural, "phi")])
        status = dict(status)
        ends = [{"type": t, "status": "True", "message": status.pop(t)} for t in ("Complete", "Failed") if t in status]
        content["status"] = {**status, "conditions": ends}
        self._put(JOBS.plural, msgspec.convert(content, Job))

    def do_job_pod(self, given: dict[str, Any]) -> None:
        """Let a pod of the Job be there: name, reports by container, and the state of each container in its order."""
        job = self.observed.children[ChildId(JOBS.plural, "phi")]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "phi", "uid": job.metadata.uid, "controller": True}
        said = {labels.report_annotation(name): json.dumps(text) for name, text in given.get("reports", {}).items()}
        metadata = {"name": given["name"], "namespace": "team", "annotations": said, "ownerReferences": [owner]}
        metadata["creationTimestamp"] = self.now.isoformat()
        states = [{"name": name, "state": state} for name, state in given.get("containers", {}).items()]
        status = {
            "phase": given.get("phase", "Running"),
            "initContainerStatuses": states,
            "reason": given.get("reason", ""),
        }
        spec = {"nodeName": next(iter(self.observed.nodes)).metadata.name}
        pod = msgspec.convert({"metadata": metadata, "spec": spec, "status": status}, Pod)
        others = [other for other in self.observed.pods if other.metadata.name != pod.metadata.name]
        self.change(pods=(*others, pod))

    def do_training(self, text: str | None) -> None:
        self.change(config=ConfigSource(found=text is not None, data={TRAINING_KEY: text} if text is not None else {}))

    def do_rival(self, name: str | None) -> None:
        self.change(output_rival=OutputRival(key=Key("team", name)) if name else None)

    def do_annotate(self, annotations: dict[str, str]) -> None:
        self.metadata(annotations=annotations)

    def do_stranger(self, plural: str) -> None:
        """Let somebody else own the object of that kind named phi, or (with a minus) remove it."""
        if plural.startswith("-"):
            self._drop(ChildId(plural[1:], "phi"))
            return
        metadata = {"name": "phi", "namespace": "team", "uid": "strange", "ownerReferences": [STRANGER]}
        self._put(plural, msgspec.convert({"metadata": metadata}, StatefulSet))

    def do_config(self, text: str | None) -> None:
        self.change(config=ConfigSource(found=text is not None, data={CONFIG_KEY: text} if text is not None else {}))

    def do_set(self, fields: dict[str, Any]) -> None:
        """Set plain fields of the snapshot."""
        self.change(**fields)

    def do_wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def do_delete(self, _: Any) -> None:
        self.metadata(deletion_timestamp=self.now)

    def do_gone(self, what: str) -> None:
        """Let what was asked to go be gone."""
        if what == "claims":
            self.change(claims=tuple(claim for claim in self.observed.claims if not claim.metadata.deleting))
        else:
            self._drop(ChildId(what, "phi"))

    # --- carrying out a decision --------------------------------------------------------------------------------------
    def carry_out(self, decision: Decision) -> None:
        finalizers = self.observed.workspace.metadata.finalizers
        if decision.finalizer is Finalizer.ADD:
            finalizers = [*finalizers, labels.WORKSPACE_FINALIZER]
        elif decision.finalizer is Finalizer.REMOVE:
            finalizers = [name for name in finalizers if name != labels.WORKSPACE_FINALIZER]
        annotations = {**self.observed.workspace.metadata.annotations, **decision.annotations}
        self.metadata(finalizers=finalizers, annotations=annotations)
        for step in decision.deletes:
            self._delete(step.resource.plural, step.key)
        for manifest in (*decision.creates, *decision.applies):
            self._write(manifest)
        self.change(
            claims=(*self.observed.claims, *(self._made(manifest) for manifest in decision.claims)),
            revisions=(*self.observed.revisions, *(self._made(manifest) for manifest in decision.history)),
        )
        for patch in decision.patches:
            self._patch(patch.resource.plural, patch.key, patch.body)

    def report(self, decision: Decision) -> None:
        if decision.status is not None:
            self.change(workspace=msgspec.structs.replace(self.observed.workspace, status=decision.status))

    def _made(self, manifest: Manifest) -> Any:
        self.uids += 1
        metadata = {**manifest.body["metadata"], "uid": f"uid-{self.uids}", "generation": 1}
        return msgspec.convert({**manifest.body, "metadata": metadata}, manifest.resource.type)

    def _write(self, manifest: Manifest) -> None:
        made = self._made(manifest)
        old = self.observed.child(manifest.resource, manifest.name)
        if isinstance(old, StatefulSet):
            rolls = self.specs[manifest.name] != manifest.body["spec"]
            kept = {"uid": old.metadata.uid, "generation": old.metadata.generation + rolls}
            metadata = msgspec.structs.replace(made.metadata, **kept)
            made = msgspec.structs.replace(made, metadata=metadata, status=old.status)
        self.specs[manifest.name] = manifest.body.get("spec")
        self._put(manifest.resource.plural, made)

    def _patch(self, plural: str, key: Key, body: dict[str, Any]) -> None:
        if plural == "controllerrevisions":
            changed = [
                msgspec.structs.replace(r, revision=body["revision"]) if r.metadata.key == key else r
                for r in self.observed.revisions
            ]
            self.change(revisions=tuple(changed))
            return
        old = self.observed.children[ChildId(plural, key.name)]
        content = msgspec.to_builtins(old)
        metadata = {**content["metadata"], **body["metadata"]}
        self._put(plural, msgspec.convert({**content, **body, "metadata": metadata}, type(old)))

    def _delete(self, plural: str, key: Key) -> None:
        if plural == "controllerrevisions":
            left: list[ControllerRevision] = [r for r in self.observed.revisions if r.metadata.key != key]
            self.change(revisions=tuple(left))
        elif plural in {"nodeclaims", "machines"}:
            marked = [self._dying(c) if c.metadata.key == key else c for c in self.observed.claims]
            self.change(claims=tuple(marked))
        else:
            child = ChildId(plural, key.name)
            self._put(plural, self._dying(self.observed.children[child]))

    def _dying(self, found: Any) -> Any:
        return msgspec.structs.replace(
            found, metadata=msgspec.structs.replace(found.metadata, deletion_timestamp=self.now)
        )

    def _put(self, plural: str, found: Any) -> None:
        children = {**self.observed.children, ChildId(plural, found.metadata.name): found}
        self.change(children=children)

    def _drop(self, child: ChildId) -> None:
        self.change(children={key: found for key, found in self.observed.children.items() if key != child})


def _condition(type_: str, text: str, now: datetime) -> dict[str, Any]:
    status, _, rest = text.partition(" ")
    reason, _, message = rest.partition(" ")
    stated = {"type": type_, "status": status, "reason": reason or type_, "message": message}
    return {**stated, "lastTransitionTime": now.isoformat()}


def summary(decision: Decision) -> dict[str, Any]:
    """Return what a reader wants to know of a decision; empty parts are left out."""
    status = decision.status
    told: dict[str, Any] = {}
    if status is not None:
        told = {
            "state": str(status.state),
            "nodes": status.worker_nodes,
            "target": status.target_node_count,
            "conditions": {str(c.type): f"{c.status} {c.reason}: {c.message}" for c in status.conditions},
            "phases": [f"{p.name} {'done' if p.finished_at else 'goes on'}" for p in status.phases],
            "adapters": [f"{a.name} {a.state}" for a in status.adapters],
            "tuning": {k: v for k, v in msgspec.to_builtins(status.tuning).items() if v} if status.tuning else {},
        }
    parts = {
        "finalizer": decision.finalizer.value if decision.finalizer is not Finalizer.KEEP else "",
        "annotations": sorted(decision.annotations),
        "deletes": [f"{d.resource.kind} {d.key.name} {d.propagation}" for d in decision.deletes],
        "creates": [f"{m.resource.kind} {m.name}" for m in decision.creates],
        "patches": [f"{p.resource.kind} {p.key.name}" for p in decision.patches],
        "claims": [f"{m.resource.kind} {m.name}" for m in decision.claims],
        "applies": [f"{m.resource.kind} {m.name}" for m in decision.applies],
        "history": [f"{m.resource.kind} {m.body['revision']}" for m in decision.history],
        "status": {key: value for key, value in told.items() if value},
        "notices": [f"{n.type} {n.reason}" for n in decision.notices],
        "requeue_after": decision.requeue_after,
    }
    return {key: value for key, value in parts.items() if value not in ("", [], {}, None)}


@pytest.mark.parametrize("story", sorted(file.stem for file in STORIES.glob("*.yaml")))
def test_story(story: str, catalog: Catalog, settings: Settings, workspace: Callable[..., Workspace]) -> None:
    file = STORIES / f"{story}.yaml"
    told = yaml.safe_load(file.read_text())
    world = World(workspace(yaml.safe_dump(told["workspace"])))
    answers = []
    for step in told["steps"]:
        for name, value in step.get("do", {}).items():
            world.do(name, value)
        decision = plan(world.observed, catalog, settings, world.now)
        world.carry_out(decision)
        if decision.applies:  # as the reconciler does: the status is judged by what the apply made
            news = plan(world.observed, catalog, settings, world.now).status
            decision = msgspec.structs.replace(decision, status=news)
        world.report(decision)
        answers.append({**step, "decides": summary(decision)})
        again = plan(world.observed, catalog, settings, world.now)
        unfinished = summary(again).keys() - {"requeue_after"}
        goes_on = (
            decision.requeue_after is not None and decision.requeue_after < 1
        )  # it asks to be called again at once
        if world.observed.workspace.metadata.finalizers and not decision.deletes and not goes_on:
            assert not unfinished, f"step {len(answers)} is not stable: {summary(again)}"
    if os.environ.get("UPDATE_GOLDENS"):
        dumper = yaml.SafeDumper
        dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign, assignment]
        text = yaml.dump({**told, "steps": answers}, Dumper=dumper, sort_keys=False, width=140, allow_unicode=True)
        file.write_text(text)
    assert answers == told["steps"]
