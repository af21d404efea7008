"""Pure: the reports of the serving pods to status.adapters and the condition AdaptersReady."""

from __future__ import annotations

from collections.abc import Sequence

from kaito_api.conditions import Reason
from kaito_api.core import Pod
from kaito_api.report import AdapterReport
from kaito_api.workspace import AdapterSpec
from kaito_api.workspace_status import AdapterState, AdapterStatus
from workspace_controller.status.finding import Finding
from workspace_controller.status.inference import SERVER, report_of


def fold_adapters(specs: Sequence[AdapterSpec], pods: Sequence[Pod]) -> list[AdapterStatus]:
    """Return one entry per adapter, the spec's in its order, then those that the engine still drains.

    Pod 0 answers requests (the others only compute for it), so its report is the one that counts.
    """
    reported = _reported(pods)
    wanted = [_entry(spec, reported.get(spec.source.name)) for spec in specs]
    names = {entry.name for entry in wanted}
    draining = [_reported_entry(entry) for name, entry in sorted(reported.items()) if name not in names]
    return wanted + draining


def judge_adapters(specs: Sequence[AdapterSpec], adapters: Sequence[AdapterStatus]) -> Finding | None:
    """Judge the adapters of the spec; None where it has none."""
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
        return Finding(ok=False, reason=Reason.ADAPTER_FAILED, message=text)
    return Finding(ok=False, reason=Reason.ADAPTERS_PENDING, message=f"{count}.")


def _reported(pods: Sequence[Pod]) -> dict[str, AdapterReport]:
    first = min((pod for pod in pods if not pod.metadata.deleting), key=lambda pod: pod.metadata.name, default=None)
    said = report_of(first, SERVER) if first is not None else None
    return {adapter.name: adapter for adapter in said.adapters} if said is not None else {}


def _entry(spec: AdapterSpec, reported: AdapterReport | None) -> AdapterStatus:
    if reported is None:
        return AdapterStatus(
            name=spec.source.name,
            state=AdapterState.PENDING,
            image=spec.source.image,
            strength=spec.strength,
        )
    return _reported_entry(reported)


def _reported_entry(reported: AdapterReport) -> AdapterStatus:
    known = {state.value for state in AdapterState}
    return AdapterStatus(
        name=reported.name,
        state=reported.state if reported.state in known else AdapterState.PENDING,
        image=reported.image,
        digest=reported.digest,
        strength=reported.strength,
        reason=reported.reason,
        message=reported.message,
        load_milliseconds=int(reported.load_seconds * 1000),
    )
