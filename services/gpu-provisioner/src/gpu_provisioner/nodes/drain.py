"""Emptying a node: which pods are to leave next, in four waves, and how much grace they may still have."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from kaito_api import labels
from kaito_api.core.node import Node, Taint
from kaito_api.core.pod import Pod, Toleration

_CRITICAL = frozenset({"system-cluster-critical", "system-node-critical"})
_MIRROR = "kubernetes.io/config.mirror"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|m|s)")
_UNIT = {"h": 3600.0, "m": 60.0, "s": 1.0}
STUCK = timedelta(minutes=1)
SHARED_VOLUME_SECONDS = 360.0
"""How long volumes are waited for where pods stay that may hold them: what Kubernetes itself waits for an unmount."""
EXCLUDE_FROM_LB = "node.kubernetes.io/exclude-from-external-load-balancers"
DISRUPTED = Taint(key=labels.TAINT_DISRUPTED, effect="NoSchedule")


class Eviction(msgspec.Struct, frozen=True):
    """A pod to move now. `grace` (seconds) is set where the deadline forces a plain delete past the PDB."""

    pod: Pod
    grace: int | None = None


class DrainStep(msgspec.Struct, frozen=True):
    """`evict` now, wait for `waiting` pods; both empty means drained."""

    evict: tuple[Eviction, ...]
    waiting: tuple[Pod, ...]

    @property
    def done(self) -> bool:
        """Nothing is left that has to leave."""
        return not self.evict and not self.waiting


def drain_step(pods: Iterable[Pod], now: datetime, deadline: datetime | None) -> DrainStep:
    """The next wave: ordinary pods, ordinary daemons, critical pods, critical daemons.

    A later wave starts when the earlier one has left. With a deadline, pods whose own grace period no longer fits before
    it are deleted with what is left of it, whichever wave they belong to and whatever a PodDisruptionBudget says.
    A pod that was told to go and does not (its kubelet is dead) is not waited for past the deadline, nor a minute past its time.
    """
    candidates = (p for p in pods if must_leave(p) and not _stuck(p, now, deadline))
    leaving = sorted(candidates, key=lambda p: (_wave(p), p.metadata.key))
    if not leaving:
        return DrainStep((), ())
    current = _wave(leaving[0])
    evictions: list[Eviction] = []
    for pod in leaving:
        forced = _forced_grace(pod, now, deadline)
        if forced is not None:
            evictions.append(Eviction(pod, forced))
        elif not pod.metadata.deleting and _wave(pod) == current:
            evictions.append(Eviction(pod))
    return DrainStep(tuple(evictions), tuple(leaving))


def must_leave(pod: Pod) -> bool:
    """Whether the drain waits for this pod: not finished, not static, and not one that tolerates the disruption."""
    return not (pod.finished or _MIRROR in pod.metadata.annotations or tolerates(pod.spec.tolerations, DISRUPTED))


def stays(pod: Pod) -> bool:
    """Whether the drain leaves this pod on the node though it runs and may use volumes: it tolerates the disruption."""
    return not pod.finished and _MIRROR not in pod.metadata.annotations and not must_leave(pod)


def tolerates(tolerations: Sequence[Toleration], taint: Taint) -> bool:
    """core/v1's matching rule of a toleration and a taint."""
    for toleration in tolerations:
        if toleration.effect not in ("", taint.effect):
            continue
        if toleration.operator == "Exists" and toleration.key in ("", taint.key):
            return True
        if toleration.key == taint.key and toleration.operator in ("", "Equal") and toleration.value == taint.value:
            return True
    return False


def grace_seconds(text: str | None) -> float | None:
    """Seconds of a duration such as 1h30m, None for none."""
    if not text:
        return None
    return sum(float(number) * _UNIT[unit] for number, unit in _DURATION.findall(text))


def deadline(deleted: datetime | None, annotation: str | None, termination_grace_period: str | None) -> datetime | None:
    """When the drain is forced: the annotation's time (health repair sets it), or deletion plus the claim's grace period."""
    if annotation:
        with contextlib.suppress(ValueError):  # somebody wrote what is no time: the drain goes on by the grace period
            moment = datetime.fromisoformat(annotation)
            return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    seconds = grace_seconds(termination_grace_period)
    return deleted + timedelta(seconds=seconds) if deleted is not None and seconds is not None else None


def cordon(node: Node) -> list[Taint] | None:
    """The node's taints with the disruption taint, None when it is there already."""
    if any(t.key == DISRUPTED.key and t.effect == DISRUPTED.effect for t in node.spec.taints):
        return None
    return [*node.spec.taints, DISRUPTED]


def _stuck(pod: Pod, now: datetime, limit: datetime | None) -> bool:
    end = pod.metadata.deletion_timestamp  # the moment of the request plus the grace that was given
    return end is not None and now > end and (now - end >= STUCK or (limit is not None and now > limit))


def _wave(pod: Pod) -> int:
    owner = pod.metadata.controller
    daemon = owner is not None and owner.kind == "DaemonSet"
    return 2 * (pod.spec.priority_class_name in _CRITICAL) + daemon


def _forced_grace(pod: Pod, now: datetime, limit: datetime | None) -> int | None:
    """Seconds of grace that still fit when the pod must be deleted now, None while an eviction is in time."""
    if limit is None:
        return None
    left = (limit - now).total_seconds()
    own = pod.spec.termination_grace_period_seconds
    wanted = 30 if own is None else own
    if left >= wanted:
        return None
    if pod.metadata.deleting and (pod.metadata.deletion_grace_period_seconds or 0) <= max(left, 1):
        return None
    return max(1, int(left))
