"""What a server's report says beside its state: the engine and the adapters."""

from __future__ import annotations

from kaito_api.report import AdapterReport, EngineReport, Progress
from kubecore.pod_report import PodReporter


class Reporter(PodReporter):
    """The report of this container."""

    def progress(self, progress: Progress) -> None:
        """Say how far the present step is; written when the interval allows."""
        self.change(urgent=False, progress=progress)

    def engine(self, engine: EngineReport) -> None:
        """Say what the engine runs with."""
        self.change(urgent=True, engine=engine)

    def adapters(self, adapters: list[AdapterReport]) -> None:
        """Say how each adapter fares."""
        if adapters != self.report.adapters:
            self.change(urgent=True, adapters=adapters)
