"""Pure: the reports of the serving pods to status.adapters and the condition AdaptersReady."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

from kaito_api.conditions import Reason
from kaito_api.core import Pod
from kaito_api.report import AdapterReport
from kaito_api.workspace import AdapterSpec
from kaito_api.workspace_status import AdapterState, AdapterStatus
from workspace_controller.adapter_check import AdapterCheck, Checks, check_of
from workspace_controller.status.finding import Finding
from workspace_controller.status.inference import SERVER, WEIGHTS, report_of


def fold_adapters(
    specs: Sequence[AdapterSpec], pods: Sequence[Pod], *, spans_nodes: bool = False, checks: Checks | None = None
) -> list[AdapterStatus]:
    """Return one entry per adapter, the spec's in its order, then those that the engines still drain.

    An adapter is ready when every pod that serves says so about what the spec wants now: a report from before the last edit
    does not count. Where one model spans the nodes pod 0 answers requests (the others only compute for it), so its report is
    the one that counts. `checks` say what is wrong with an image while no pod has looked at it.
    """
    reports = _reports(pods, spans_nodes=spans_nodes)
    wanted = [_entry(spec, reports, check_of(spec, checks or {})) for spec in specs]
    names = {entry.name for entry in wanted}
    others = sorted({adapter.name for said in reports.values() for adapter in said} - names)
    return wanted + [_leaving(name, reports) for name in others]


def judge_adapters(specs: Sequence[AdapterSpec], adapters: Sequence[AdapterStatus], held: str = "") -> Finding | None:
    """Judge the adapters of the spec; None where it has none. `held` says what waits for a restart that nobody allowed."""
    if held:
        return Finding(ok=False, reason=Reason.RESTART_REQUIRED, message=held)
    if not specs:
        return None
    names = {spec.source.name for spec in specs}
    mine = [adapter for adapter in adapters if adapter.name in names]
    ready = sum(adapter.state == AdapterState.READY for adapter in mine)
    count = f"{ready} of {len(specs)} adapter(s) serve"
    if ready == len(specs):
        return Finding(ok=True, reason=Reason.ADAPTERS_READY, message=f"{count}.")
    failed = next((adapter for adapter in mine if adapter.state == AdapterState.FAILED), None)
    if failed is not None:
        text = f"{count}; {failed.name}: {failed.message or failed.reason}"
        reason = Reason.RESTART_REQUIRED if failed.reason == Reason.RESTART_REQUIRED else Reason.ADAPTER_FAILED
        return Finding(ok=False, reason=reason, message=text)
    return Finding(ok=False, reason=Reason.ADAPTERS_PENDING, message=f"{count}.")


Reports = dict[str, list[AdapterReport]]
"""By pod."""
_SEVERITY: Final = (
    AdapterState.FAILED,
    AdapterState.PENDING,
    AdapterState.PULLING,
    AdapterState.LOADING,
    AdapterState.DRAINING,
    AdapterState.READY,
)


def _reports(pods: Sequence[Pod], *, spans_nodes: bool) -> Reports:
    alive = sorted((pod for pod in pods if not pod.metadata.deleting), key=lambda pod: pod.metadata.name)
    reports: Reports = {}
    for pod in alive[:1] if spans_nodes else alive:
        # Before the engine is up, the init container has looked at the adapters.
        said = [found for container in (SERVER, WEIGHTS) if (found := report_of(pod, container)) is not None]
        if said:
            reports[pod.metadata.name] = next((found.adapters for found in said if found.adapters), [])
    return reports


def _entry(spec: AdapterSpec, reports: Reports, check: AdapterCheck | None) -> AdapterStatus:
    name = spec.source.name
    empty = AdapterReport(name=name, image=spec.source.image, strength=spec.strength)
    if check is not None and check.reason:
        failed = str(AdapterState.FAILED)
        empty = msgspec.structs.replace(empty, state=failed, reason=check.reason, message=check.message)
    found = {pod: next((entry for entry in said if entry.name == name), empty) for pod, said in reports.items()}
    states = {pod: _state(entry, spec) for pod, entry in found.items()}
    ready = [pod for pod, state in states.items() if state is AdapterState.READY]
    worst = min(states, key=lambda pod: (_SEVERITY.index(states[pod]), pod), default="")
    shown, state = (found[worst], states[worst]) if worst else (empty, _state(empty, spec))
    message = shown.message
    if len({found[pod].digest for pod in ready}) > 1:
        # A tag moved between two pods' looks at it; their next look makes them agree.
        state, message = AdapterState.LOADING, "the pods serve different contents of this tag"
    elif len(reports) > 1 and message:
        message = f"{worst}: {message}"
    return AdapterStatus(
        name=name,
        state=state,
        image=shown.image,
        digest=shown.digest,
        strength=shown.strength,
        reason=shown.reason,
        message=message,
        load_milliseconds=max((int(found[pod].load_seconds * 1000) for pod in ready), default=0),
        pods=len(reports),
        ready_pods=len(ready),
    )


def _state(reported: AdapterReport, spec: AdapterSpec) -> AdapterState:
    """Return the state of what the spec wants now in one pod."""
    state = next((known for known in AdapterState if known.value == reported.state), AdapterState.PENDING)
    if state is not AdapterState.READY:
        return state
    same = reported.image == spec.source.image and _number(reported.strength) == _number(spec.strength)
    return state if same else AdapterState.LOADING


def _number(strength: str) -> Decimal | None:
    try:
        number = Decimal(strength or "1")
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _leaving(name: str, reports: Reports) -> AdapterStatus:
    entry = next(adapter for said in reports.values() for adapter in said if adapter.name == name)
    return AdapterStatus(
        name=name,
        state=AdapterState.DRAINING,
        image=entry.image,
        digest=entry.digest,
        strength=entry.strength,
        message=entry.message,
        pods=sum(any(adapter.name == name for adapter in said) for said in reports.values()),
    )
