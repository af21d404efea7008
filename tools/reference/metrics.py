"""The metrics, from the registries that the services fill."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

import adapter_packager.metrics
import gpu_provisioner.metrics
import model_server.metrics
import tuner.metrics
import workspace_controller.metrics
from kaito_api.report import TuningReport
from kubecore import metrics as kubecore_metrics
from kubecore.clock import SystemClock
from reference.table import code, table


def page() -> str:
    """Return the page."""
    provisioner = gpu_provisioner.metrics.Metrics(CollectorRegistry())
    server = model_server.metrics.Metrics(CollectorRegistry())
    return "\n".join(
        [
            "# Metrics\n",
            "Every service answers `GET /metrics` in Prometheus' text format, beside the process and interpreter metrics of "
            "the Python client: the controllers on port 8080, the model server on its only port, 5000 (port 80 of the "
            "Workspace's Service). Counters and histograms are shown without the suffixes "
            "that Prometheus adds (`_total`; `_bucket`, `_sum`, `_count`).\n",
            "## workspace-controller, gpu-provisioner and model-server: Kubernetes client and controllers\n",
            _table(kubecore_metrics),
            "## workspace-controller\n",
            "The leader alone shows what stands (the gauges), so that the sum over all replicas is right. Costs are list "
            "prices of the catalog, of the day that `kaito_workspace_prices_timestamp_seconds` tells; no bill.\n",
            _controller(),
            "## gpu-provisioner\n",
            _table(provisioner),
            "## model-server\n",
            "vLLM's own metrics (`vllm:...`, `http_...`) stand on the same page; their reference is vLLM's documentation.\n",
            _table(server),
            "## tuner\n",
            "On the port of `--metrics-port`, and none without it; in the Job's pod 5000.\n",
            _tuner(),
            "## adapter-packager\n",
            "While it pushes, on the port of `--metrics-port`, and none without it; in the Job's pod 5000, which the tuner has "
            "left by then.\n",
            _packager(),
        ]
    )


def _controller() -> str:
    counted = _metrics(vars(workspace_controller.metrics.Metrics(CollectorRegistry())).values())
    standing = ((each.name, "gauge", each.labels, each.text) for each in workspace_controller.metrics.STANDING)
    return _rows((*counted, *standing))


def _tuner() -> str:
    page = tuner.metrics.exposition(TuningReport(loss=0.0, eval_loss=0.0, eta_seconds=0))
    families = sorted((f.name, f.type, f.documentation) for f in text_string_to_metric_families(page))
    rows = [(code(name), kind, "", text.rstrip(".")) for name, kind, text in families]
    return table(("Metric", "Type", "Labels", "Meaning"), rows)


def _packager() -> str:
    figures = adapter_packager.metrics.Figures(SystemClock())
    figures.counted([])
    figures.begin(0.0)
    figures.retried("")
    rows = [
        (code(family.name), family.type, ", ".join(map(code, family.samples[0].labels)), family.documentation)
        for family in figures.collect()
    ]
    return table(("Metric", "Type", "Labels", "Meaning"), sorted(rows))


def _table(source: ModuleType | object) -> str:
    return _rows(_metrics(vars(source).values()))


def _rows(found: Iterable[tuple[str, str, tuple[str, ...], str]]) -> str:
    rows = [
        (code(name), kind, ", ".join(code(label) for label in labels), text)
        for name, kind, labels, text in sorted(found)
    ]
    return table(("Metric", "Type", "Labels", "Meaning"), rows)


def _metrics(values: Iterable[Any]) -> Iterable[tuple[str, str, tuple[str, ...], str]]:
    for value in values:
        if isinstance(value, MetricWrapperBase):
            (family,) = value.describe()
            # The client has no public way to ask for the label names.
            yield family.name, family.type, tuple(value._labelnames), family.documentation
