"""The alerts on invented series, by Prometheus' own promtool: each fires for what it names, after its time, and not otherwise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito_local.command import run

pytestmark = pytest.mark.slow  # processes and sockets that are waited for

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "monitoring" / "rules.yaml"
MINUTES = 60
POD = 'namespace="team", pod="phi-0"'

# alert: (series that make it fire, values), (the same without the trouble, values)
CASES: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "KaitoNoLeader": (('kubecore_leader{lease="l"}', "0x60"), ('kubecore_leader{lease="l"}', "1x60")),
    "KaitoTwoLeaders": (('kubecore_leader{lease="l"}', "2x60"), ('kubecore_leader{lease="l"}', "1x60")),
    "KaitoReconcileErrors": (
        ('kubecore_reconcile_errors_total{controller="workspace", error="Conflict"}', "0+30x60"),
        ('kubecore_reconcile_errors_total{controller="workspace", error="Conflict"}', "0+1x60"),
    ),
    "KaitoQueueStuck": (
        ('kubecore_queue_depth{controller="workspace"}', "101x60"),
        ('kubecore_queue_depth{controller="workspace"}', "99x60"),
    ),
    "KaitoCacheSilent": (
        ('kubecore_informer_last_activity_seconds{resource="pods"}', "0x60"),
        ('kubecore_informer_last_activity_seconds{resource="pods"}', "0+60x60"),
    ),
    "KaitoEventLoopLate": (
        ('kubecore_event_loop_lag_seconds{instance="a"}', "3x60"),
        ('kubecore_event_loop_lag_seconds{instance="a"}', "0x60"),
    ),
    "KaitoWorkspaceNotReady": (
        ('kaito_workspace_count{namespace="team", state="NotReady", reason="OutOfMemory"}', "1x60"),
        ('kaito_workspace_count{namespace="team", state="Ready", reason="workspaceSucceeded"}', "1x60"),
    ),
    "KaitoWorkspaceFailed": (
        ('kaito_workspace_count{namespace="team", state="Failed", reason="TrainingFailed"}', "1x60"),
        ('kaito_workspace_count{namespace="team", state="Succeeded", reason="workspaceSucceeded"}', "1x60"),
    ),
    "KaitoAdmissionPolicyMissing": (
        ('kaito_workspace_count{namespace="team", state="Pending", reason="AdmissionPolicyMissing"}', "1x60"),
        ('kaito_workspace_count{namespace="team", state="Pending", reason="workspacePending"}', "1x60"),
    ),
    "KaitoClaimsPending": (("gpu_provisioner_claims_pending", "2x60"), ("gpu_provisioner_claims_pending", "0x60")),
    "KaitoCloudUnauthorized": (
        ('gpu_provisioner_cloud_failures_total{class="Unauthorized"}', "0+1x60"),
        ('gpu_provisioner_cloud_failures_total{class="Throttled"}', "0+1x60"),
    ),
    "KaitoNodesUnhealthy": (("gpu_provisioner_nodes_unhealthy", "3x60"), ("gpu_provisioner_nodes_unhealthy", "2x60")),
    "KaitoModelNotServing": ((f"kaito_ready{{{POD}}}", "0x60"), (f"kaito_ready{{{POD}}}", "1x60")),
    "KaitoAdapterFailed": (
        (f'kaito_adapter_state{{{POD}, adapter="a", state="Failed"}}', "1x60"),
        (f'kaito_adapter_state{{{POD}, adapter="a", state="Failed"}}', "0x60"),
    ),
    "KaitoRequestsRejected": (
        (f"kaito_ratelimit_rejected_total{{{POD}}}", "0+60x60"),
        (f"kaito_ratelimit_rejected_total{{{POD}}}", "0x60"),
    ),
}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def firing(name: str, *series: tuple[str, str]) -> dict[str, Any]:
    """A promtool test which asks whether the alert fires at the end of an hour."""
    query = f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)'
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "promql_expr_test": [
            {"expr": query, "eval_time": f"{MINUTES}m", "exp_samples": [{"labels": "{}", "value": 1}]}
        ],
    }


def test_every_alert_has_its_case() -> None:
    assert {alert["alert"] for alert in alerts()} == set(CASES)
    for alert in alerts():
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["runbook"]
        assert alert["labels"]["severity"] in {"critical", "warning"}


async def test_each_fires_for_its_trouble_and_not_without(tmp_path: Path) -> None:
    tests = []
    for name, (trouble, peace) in CASES.items():
        tests.append(firing(name, trouble))
        calm = firing(name, peace)
        calm["promql_expr_test"][0]["exp_samples"][0]["value"] = 0
        tests.append(calm)
    waiting = firing(
        "KaitoQueueStuck",
        ('kubecore_queue_depth{controller="workspace", instance="standby"}', "101x60"),
        ('kubecore_leader{lease="l", instance="standby"}', "0x60"),
        ('kubecore_leader{lease="l", instance="leader"}', "1x60"),
    )
    waiting["promql_expr_test"][0]["exp_samples"][0]["value"] = 0
    tests.append(waiting)
    tests.append(
        firing(
            "KaitoQueueStuck",
            ('kubecore_queue_depth{controller="workspace", instance="leader"}', "101x60"),
            ('kubecore_leader{lease="l", instance="leader"}', "1x60"),
            ('kubecore_leader{lease="another", instance="leader"}', "0x60"),
        )
    )
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    await run("promtool", "check", "rules", RULES)
    answer = await run("promtool", "test", "rules", file)
    assert "SUCCESS" in answer


def test_summaries_use_labels_that_the_alert_has() -> None:
    """A label that `sum by` drops would show as nothing."""
    for alert in alerts():
        used = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"]))
        kept = re.search(r"by \(([^)]*)\)", alert["expr"])
        if kept is None:
            continue
        assert used <= {label.strip() for label in kept[1].split(",")}, alert["alert"]
