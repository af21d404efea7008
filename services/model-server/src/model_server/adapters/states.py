"""How each adapter fares: kept for the pod's report and as metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from kaito_api.report import AdapterReport
from kaito_api.workspace_status import AdapterState
from model_server.adapters.version import Version
from model_server.metrics import Metrics


class AdapterStates:
    """One report per adapter. `changed` is called with all of them, sorted by name, after each change."""

    def __init__(self, metrics: Metrics, changed: Callable[[list[AdapterReport]], None]) -> None:
        self._metrics = metrics
        self._changed = changed
        self._reports: dict[str, AdapterReport] = {}
        self._wanted: frozenset[str] = frozenset()

    def expect(self, names: Iterable[str]) -> None:
        """Take note of the names that are wanted now."""
        self._wanted = frozenset(names)

    def unserved(self, name: str) -> AdapterReport | None:
        """Return how an adapter that is not served fares; None where none of that name is wanted, or on its way out."""
        report = self._reports.get(name)
        if name not in self._wanted:
            # Any other report is of work that was begun while it was wanted.
            return report if report is not None and report.state == AdapterState.DRAINING else None
        if report is None or report.state in {AdapterState.READY, AdapterState.DRAINING}:
            # Nothing was done for it yet, since it is wanted or wanted again.
            return AdapterReport(name=name, state=str(AdapterState.PENDING))
        return report

    def get(self, name: str) -> AdapterReport | None:
        """Return the report of one adapter."""
        return self._reports.get(name)

    def enter(self, report: AdapterReport) -> None:
        """Replace the report of one adapter."""
        before = self._reports.get(report.name)
        if report == before:
            return
        self._reports[report.name] = report
        self._measure(before, report)
        self._tell()

    def fail(self, name: str, image: str, reason: str, message: str, served: Version | None) -> None:
        """Say that the wanted version cannot be served; `served` is the version that goes on, None if there is none."""
        self._metrics.adapter_failures.labels(name, reason).inc()
        report = AdapterReport(name=name, image=image, state=str(AdapterState.FAILED), reason=reason, message=message)
        if served is not None:
            report = msgspec.structs.replace(
                report,
                digest=served.digest,
                strength=served.strength,
                message=f"{message}; {served.short} at strength {served.strength} is still served",
            )
        self.enter(report)

    def drop(self, name: str) -> None:
        """Forget an adapter that is wanted no more."""
        before = self._reports.pop(name, None)
        if before is not None:
            self._measure(before, None)
            self._tell()

    def _tell(self) -> None:
        self._changed([self._reports[name] for name in sorted(self._reports)])

    def _measure(self, before: AdapterReport | None, after: AdapterReport | None) -> None:
        if before is not None:
            self._metrics.adapter_state.remove(before.name, before.digest, before.strength, before.state)
        if after is not None:
            self._metrics.adapter_state.labels(after.name, after.digest, after.strength, after.state).set(1)
