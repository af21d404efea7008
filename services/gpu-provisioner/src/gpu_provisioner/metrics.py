"""The provisioner's metrics, by Prometheus' naming conventions (seconds, _total, base units)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gpu_provisioner.cloud.bucket import Verb
from kaito_api.conditions import ClaimCondition

PHASE_BUCKETS = (0.05, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 180, 240, 300, 420, 600, 900, 1800)
PHASES = (ClaimCondition.LAUNCHED, ClaimCondition.REGISTERED, ClaimCondition.INITIALIZED)
"""Steps of a claim that are timed."""


class Metrics:
    """All series, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.failures = Counter(
            "gpu_provisioner_cloud_failures",
            "Cloud calls and operations that failed, by class",
            ["class"],
            registry=registry,
        )
        self.calls = Counter(
            "gpu_provisioner_cloud_changes", "Changes sent to AKS, by verb", ["verb"], registry=registry
        )
        self.throttled = Counter(
            "gpu_provisioner_put_deferred", "PUTs held back by the client-side token bucket", registry=registry
        )
        self.deferred = Counter(
            "gpu_provisioner_calls_deferred",
            "Calls other than PUT held back by a client-side token bucket, by verb",
            ["verb"],
            registry=registry,
        )
        for verb in (Verb.DELETE, Verb.DELETE_MACHINES, Verb.READ):
            self.deferred.labels(verb)  # at 0 from the start, as the phases below
        self.pools = Gauge("gpu_provisioner_agent_pools", "Agent pools that carry our mark", registry=registry)
        self.pending = Gauge("gpu_provisioner_claims_pending", "Live claims without a machine", registry=registry)
        self.unhealthy = Gauge(
            "gpu_provisioner_nodes_unhealthy", "Nodes of claims that are not Ready or lost their GPU", registry=registry
        )
        self.phase = Histogram(
            "gpu_provisioner_claim_phase_seconds",
            "Time from the claim's creation until the step was done",
            ["phase"],
            buckets=PHASE_BUCKETS,
            registry=registry,
        )
        for phase in PHASES:
            self.phase.labels(phase)  # at 0 from the start: a rate does not see the first value of a new series
        self.terminated = Counter(
            "gpu_provisioner_claims_terminated", "Claims whose machine is proven gone", registry=registry
        )
        self.replaced = Counter(
            "gpu_provisioner_claims_replaced", "Live claims deleted by us, by cause", ["cause"], registry=registry
        )
