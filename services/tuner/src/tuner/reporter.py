"""What a tuning's report says beside its state: notes and figures. States and notes are in the log as well."""

from __future__ import annotations

import logging
from pathlib import Path

from kaito_api.report import Progress, TuningReport
from kubecore.clock import SystemClock
from kubecore.pod_report import Annotate, PodReporter

_logger = logging.getLogger(__name__)


class Reporter(PodReporter):
    """The report of this container."""

    def __init__(self, annotate: Annotate | None, termination_log: Path) -> None:
        super().__init__(clock=SystemClock(), annotate=annotate, termination_log=termination_log)

    def state(self, state: str, *, reason: str = "", message: str = "") -> None:
        """Enter a state. Progress of the one before is dropped, the figures of the training are kept."""
        _logger.info("state", extra={"state": state, "reason": reason, "detail": message})
        super().state(state, reason=reason, message=message)

    def message(self, message: str) -> None:
        """Say something beside the state."""
        _logger.info("note", extra={"detail": message})
        self.change(urgent=True, message=message)

    def progress(self, progress: Progress | None = None, tuning: TuningReport | None = None) -> None:
        """Say how far the present step is; written when the interval allows."""
        self.change(urgent=False, progress=progress, tuning=tuning or self.report.tuning)
