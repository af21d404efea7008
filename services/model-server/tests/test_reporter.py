"""What a server adds to its report."""

from __future__ import annotations

from pathlib import Path

from kaito_api.report import AdapterReport
from kubecore.testing.clock import FakeClock
from model_server.reporter import Reporter


def test_unchanged_adapters_are_no_news(tmp_path: Path) -> None:
    clock = FakeClock()
    reporter = Reporter(clock=clock, annotate=None, termination_log=tmp_path / "log")
    reporter.adapters([AdapterReport(name="a", state="Ready")])
    first = reporter.report
    clock.tick(1)
    reporter.adapters([AdapterReport(name="a", state="Ready")])
    assert reporter.report is first
    reporter.adapters([AdapterReport(name="a", state="Draining")])
    assert reporter.report.at > first.at
