"""Writes deploy/monitoring/dashboards/*.json, Grafana's dashboards, from the short tables below.

`python tools/generate_dashboards.py` writes the files; with `--check` it names those that are out of date and ends with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "monitoring" / "dashboards"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, COLUMNS = 8, 7, 3


class Panel(NamedTuple):
    """A graph: title, query, unit of Grafana, legend."""

    title: str
    query: str
    unit: str = "short"
    legend: str = ""
    kind: str = "timeseries"


class Board(NamedTuple):
    """A dashboard: its file's name, title, variables (name to query of labels) and panels."""

    name: str
    title: str
    variables: dict[str, str]
    panels: list[Panel]


def share(metric: str, quantile: float, by: str, selector: str = "") -> str:
    """Return the query of a histogram's quantile over five minutes."""
    return f"histogram_quantile({quantile}, sum by (le, {by}) (rate({metric}_bucket{selector}[5m])))"


POD = '{namespace="$namespace", workspace="$workspace"}'
BOARDS = [
    Board(
        "fleet",
        "KAITO / Fleet",
        {},
        [
            Panel("Workspaces by state", "sum by (state) (kaito_workspace_count)", legend="{{state}}"),
            Panel("Cost", "kaito:cost_usd_per_hour", "currencyUSD", "USD an hour", "stat"),
            Panel(
                "Cost by Workspace",
                "sum by (namespace, workspace) (kaito_workspace_estimated_cost_usd_per_hour)",
                "currencyUSD",
                "{{namespace}}/{{workspace}}",
            ),
            Panel(
                "Not ready or failed, by reason",
                'sum by (namespace, reason) (kaito_workspace_count{state!~"Ready|Succeeded"})',
                legend="{{namespace}}: {{reason}}",
            ),
            Panel(
                "Time to ready, median",
                share("kaito_workspace_ready_duration_seconds", 0.5, "kind"),
                "s",
                "{{kind}}",
            ),
            Panel(
                "Time of each phase, median",
                share("kaito_workspace_phase_duration_seconds", 0.5, "phase"),
                "s",
                "{{phase}}",
            ),
            Panel(
                "Real over planned, mean",
                # Since the leader started: once for each Workspace or run, too seldom for a rate.
                "sum by (quantity, preset) (kaito_workspace_plan_error_ratio_sum)"
                " / sum by (quantity, preset) (kaito_workspace_plan_error_ratio_count)",
                "percentunit",
                "{{quantity}} {{preset}}",
            ),
            Panel(
                "Failures",
                "sum by (condition, reason) (increase(kaito_workspace_failures_total[1h])) or vector(0)",
                legend="{{condition}} {{reason}}",
            ),
            Panel("Leaders", "kaito:leaders", legend="{{lease}}"),
            Panel(
                "Reconciles",
                "sum by (controller, result) (rate(kubecore_reconcile_total[5m])) > 0",
                "ops",
                "{{controller}} {{result}}",
            ),
            Panel(
                "Time of a reconcile, p99",
                share("kubecore_reconcile_duration_seconds", 0.99, "controller"),
                "s",
                "{{controller}}",
            ),
            Panel(
                "Queue",
                # Without the replicas that wait for the lease: they keep every key.
                "sum by (controller) (kubecore_queue_depth unless on (instance) (max by (instance) (kubecore_leader) == 0))",
                legend="{{controller}}",
            ),
            Panel(
                "API requests",
                "sum by (verb, code) (rate(kubecore_requests_total[5m]))",
                "reqps",
                "{{verb}} {{code}}",
            ),
            Panel("Objects in caches", "sum by (resource) (kubecore_informer_objects)", legend="{{resource}}"),
            Panel("Memory", 'process_resident_memory_bytes{job=~".*kaito.*"}', "bytes", "{{instance}}"),
            Panel("CPU", 'rate(process_cpu_seconds_total{job=~".*kaito.*"}[5m])', "percentunit", "{{instance}}"),
        ],
    ),
    Board(
        "workspace",
        "KAITO / One Workspace",
        {"namespace": "label_values(kaito_ready, namespace)", "workspace": "label_values(kaito_ready, workspace)"},
        [
            Panel("Ready", f"kaito_ready{POD}", legend="{{pod}}", kind="stat"),
            Panel("Requests in flight", f"sum by (pod) (kaito_requests_in_flight{POD})", legend="{{pod}}"),
            Panel(
                "Requests by outcome",
                f"sum by (outcome) (rate(kaito_adapter_requests_total{POD}[5m]))",
                "reqps",
                "{{outcome}}",
            ),
            Panel("Running in the engine", f"sum by (pod) (vllm:num_requests_running{POD})", legend="{{pod}}"),
            Panel("Waiting for the engine", f"sum by (pod) (vllm:num_requests_waiting{POD})", legend="{{pod}}"),
            Panel("KV cache in use", f"max by (pod) (vllm:kv_cache_usage_perc{POD})", "percentunit", "{{pod}}"),
            Panel(
                "Time to the first token, p95",
                share("vllm:time_to_first_token_seconds", 0.95, "pod", POD),
                "s",
                "{{pod}}",
            ),
            Panel(
                "Time of a request, p95", share("vllm:e2e_request_latency_seconds", 0.95, "pod", POD), "s", "{{pod}}"
            ),
            Panel(
                "Tokens generated", f"sum by (pod) (rate(vllm:generation_tokens_total{POD}[5m]))", "short", "{{pod}}"
            ),
            Panel(
                "Turned away (429)",
                f"sum by (pod) (rate(kaito_ratelimit_rejected_total{POD}[5m]))",
                "reqps",
                "{{pod}}",
            ),
            Panel(
                "Refused while draining (503)",
                f"sum by (pod) (rate(kaito_drain_refused_total{POD}[5m]))",
                "reqps",
                "{{pod}}",
            ),
            Panel(
                "Cost",
                'sum(kaito_workspace_estimated_cost_usd_per_hour{namespace="$namespace", '
                'workspace="$workspace"}) or vector(0)',
                "currencyUSD",
                "USD an hour",
            ),
        ],
    ),
    Board(
        "adapters",
        "KAITO / Adapters",
        {},
        [
            Panel(
                "State of each adapter",
                "sum by (namespace, pod, adapter, state) (kaito_adapter_state == 1)",
                legend="{{namespace}}/{{pod}} {{adapter}}: {{state}}",
            ),
            Panel(
                "Requests by adapter",
                "sum by (adapter) (rate(kaito_adapter_requests_total[5m]))",
                "reqps",
                "{{adapter}}",
            ),
            Panel(
                "Tokens by adapter",
                "sum by (adapter, kind) (rate(kaito_adapter_tokens_total[5m]))",
                legend="{{adapter}} {{kind}}",
            ),
            Panel(
                "Time to load, p95",
                # Of all loads of the running pods: most end before the first scrape, where no rate sees them.
                "histogram_quantile(0.95, sum by (le, phase) (kaito_adapter_load_seconds_bucket))",
                "s",
                "{{phase}}",
            ),
            Panel(
                "Failed loads",
                "sum by (adapter, reason) (increase(kaito_adapter_failures_total[1h])) or vector(0)",
                legend="{{adapter}} {{reason}}",
            ),
        ],
    ),
    Board(
        "tuning",
        "KAITO / Tuning",
        {},
        [
            Panel("Loss", "kaito_tuner_loss", legend="{{namespace}}/{{pod}}"),
            Panel("Loss on held-out samples", "kaito_tuner_eval_loss", legend="{{namespace}}/{{pod}}"),
            Panel("Done", "kaito_tuner_step / kaito_tuner_total_steps", "percentunit", "{{namespace}}/{{pod}}", "stat"),
            Panel("Time left", "kaito_tuner_eta_seconds", "s", "{{namespace}}/{{pod}}", "stat"),
            Panel("Tokens a second", "kaito_tuner_tokens_per_second", legend="{{namespace}}/{{pod}}"),
            Panel("Peak memory", "kaito_tuner_peak_memory_bytes", "bytes", "{{namespace}}/{{pod}}"),
            Panel(
                "Pushed",
                "kaito_packager_done_bytes / kaito_packager_image_bytes or vector(0)",
                "percentunit",
                "{{namespace}}/{{pod}}",
            ),
            Panel(
                "Time that pushes are held",
                "kaito_packager_hold_seconds or vector(0)",
                "s",
                "{{namespace}}/{{pod}}",
            ),
            Panel(
                "Pushes tried again",
                "sum by (namespace, pod, reason) (kaito_packager_retries_total) or vector(0)",
                legend="{{namespace}}/{{pod}} {{reason}}",
            ),
        ],
    ),
    Board(
        "provisioner",
        "KAITO / GPU provisioner",
        {},
        [
            Panel("Claims without a machine", "max(gpu_provisioner_claims_pending)", legend="pending"),
            Panel("Agent pools", "max(gpu_provisioner_agent_pools)", legend="pools"),
            Panel("Ill nodes", "max(gpu_provisioner_nodes_unhealthy)", legend="nodes"),
            Panel(
                "From claim to each step, median",
                share("gpu_provisioner_claim_phase_seconds", 0.5, "phase"),
                "s",
                "{{phase}}",
            ),
            Panel(
                "Changes sent to the cloud",
                "sum by (verb) (increase(gpu_provisioner_cloud_changes_total[1h]))",
                legend="{{verb}}",
            ),
            Panel(
                "Cloud failures",
                "sum by (class) (increase(gpu_provisioner_cloud_failures_total[1h])) or vector(0)",
                legend="{{class}}",
            ),
            Panel("PUTs held back", "sum(increase(gpu_provisioner_put_deferred_total[1h]))", legend="deferred"),
            Panel(
                "Claims ended and replaced",
                "sum(increase(gpu_provisioner_claims_terminated_total[1h]))",
                legend="ended",
            ),
        ],
    ),
]


def panel(number: int, row: Panel) -> dict[str, Any]:
    """Return Grafana's JSON of one panel."""
    return {
        "id": number + 1,
        "title": row.title,
        "type": row.kind,
        "datasource": SOURCE,
        "gridPos": {
            "x": number % COLUMNS * WIDTH,
            "y": number // COLUMNS * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": row.unit, "min": 0}, "overrides": []},
        "targets": [{"refId": "A", "datasource": SOURCE, "expr": row.query, "legendFormat": row.legend}],
    }


def dashboard(board: Board) -> dict[str, Any]:
    """Return Grafana's JSON of one dashboard."""
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    chosen = [
        {"name": name, "type": "query", "datasource": SOURCE, "query": query, "refresh": 2, "sort": 1}
        for name, query in board.variables.items()
    ]
    return {
        "uid": f"kaito-{board.name}",
        "title": board.title,
        "tags": ["kaito"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source, *chosen]},
        "panels": [panel(number, row) for number, row in enumerate(board.panels)],
    }


def main() -> int:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")
    check = parser.parse_args().check
    wanted = {board.name: json.dumps(dashboard(board), indent=2) + "\n" for board in BOARDS}
    files = {name: FOLDER / f"{name}.json" for name in wanted}
    stale = [name for name, file in files.items() if not file.exists() or file.read_text() != wanted[name]]
    for name in stale:
        if check:
            sys.stderr.write(f"{files[name].name} is out of date: run python tools/generate_dashboards.py\n")
        else:
            files[name].write_text(wanted[name])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
