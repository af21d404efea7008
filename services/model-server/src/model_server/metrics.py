"""Our metrics, beside vLLM's own on the same /metrics. Names are stable: dashboards and alerts depend on them."""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BASE: Final = "(base)"
"""Value of the label `adapter` for requests without one. No adapter's name has parentheses."""
LOAD_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
"""Seconds: staging takes milliseconds, a pull over a slow network a minute."""


class Metrics:
    """The metrics of one server. Label values of adapters come from the Workspace, never from clients."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.requests = Counter(
            "kaito_adapter_requests",
            "Requests by adapter and outcome (HTTP status class, or aborted)",
            ["adapter", "outcome"],
            registry=registry,
        )
        self.tokens = Counter(
            "kaito_adapter_tokens",
            "Tokens by adapter and kind (prompt, generation)",
            ["adapter", "kind"],
            registry=registry,
        )
        self.rejected = Counter(
            "kaito_ratelimit_rejected", "Requests answered 429 because the queue was full", registry=registry
        )
        self.refused_draining = Counter(
            "kaito_drain_refused", "Requests answered 503 because the server was draining", registry=registry
        )
        self.refused_unauthorized = Counter(
            "kaito_auth_refused", "Requests answered 401 because they carried no valid API key", registry=registry
        )
        self.in_flight = Gauge("kaito_requests_in_flight", "HTTP requests being answered", registry=registry)
        self.ready = Gauge("kaito_ready", "1 while the pod answers its readiness probe with 200", registry=registry)
        self.adapter_load = Histogram(
            "kaito_adapter_load_seconds",
            "Time of each phase of a load (resolve, peek, pull, preflight, stage, engine), and of all of it (total)",
            ["phase"],
            buckets=LOAD_BUCKETS,
            registry=registry,
        )
        self.adapter_state = Gauge(
            "kaito_adapter_state",
            "1 for the state that each adapter is in",
            ["adapter", "digest", "strength", "state"],
            registry=registry,
        )
        self.adapter_failures = Counter(
            "kaito_adapter_failures", "Failed attempts to load an adapter", ["adapter", "reason"], registry=registry
        )

    def count(self, adapter: str, outcome: str, usage: Any) -> None:
        """Count a finished request; `usage` is vLLM's UsageInfo or None."""
        label = adapter or BASE
        self.requests.labels(label, outcome).inc()
        if usage is not None:
            self.tokens.labels(label, "prompt").inc(usage.prompt_tokens or 0)
            self.tokens.labels(label, "generation").inc(usage.completion_tokens or 0)
