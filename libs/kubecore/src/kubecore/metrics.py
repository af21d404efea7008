"""All Prometheus collectors of kubecore, in the process's default registry, so that their names stand in one place."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0)

REQUESTS = Counter("kubecore_requests_total", "Answered API requests", ["verb", "resource", "code"])
REQUEST_SECONDS = Histogram(
    "kubecore_request_duration_seconds",
    "Time of one API request, without retries",
    ["verb", "resource"],
    buckets=_LATENCY,
)
REQUEST_RETRIES = Counter("kubecore_request_retries_total", "Requests sent again after 429 or Retry-After", ["verb"])

INFORMER_OBJECTS = Gauge("kubecore_informer_objects", "Objects in the cache", ["resource"])
INFORMER_EVENTS = Counter("kubecore_informer_events_total", "Watch events by type", ["resource", "type"])
INFORMER_LISTS = Counter("kubecore_informer_lists_total", "Complete lists", ["resource"])
INFORMER_FAILURES = Counter(
    "kubecore_informer_failures_total", "Lists and watches that ended in an error", ["resource", "error"]
)
INFORMER_ACTIVE = Gauge(
    "kubecore_informer_last_activity_seconds", "Unix time of the last answer or event", ["resource"]
)
INFORMER_UNREADABLE = Counter("kubecore_informer_unreadable_total", "Objects that do not fit our view", ["resource"])
HANDLER_ERRORS = Counter("kubecore_handler_errors_total", "Event handlers that raised", ["resource"])

RECONCILES = Counter("kubecore_reconcile_total", "Finished reconciles", ["controller", "result"])
RECONCILE_ERRORS = Counter(
    "kubecore_reconcile_errors_total", "Reconciles that are retried with backoff", ["controller", "error"]
)
RECONCILE_SECONDS = Histogram(
    "kubecore_reconcile_duration_seconds", "Time of one reconcile", ["controller"], buckets=_LATENCY
)
ACTIVE_WORKERS = Gauge("kubecore_active_workers", "Workers inside a reconcile", ["controller"])
QUEUE_DEPTH = Gauge("kubecore_queue_depth", "Keys ready to be worked on", ["controller"])
QUEUE_SECONDS = Histogram(
    "kubecore_queue_wait_seconds", "From becoming ready to being picked", ["controller"], buckets=_LATENCY
)

LEADER = Gauge("kubecore_leader", "1 while this process holds the lease", ["lease"])
EVENTS_DROPPED = Counter("kubecore_events_dropped_total", "Kubernetes Events given up", ["why"])
LOOP_LAG = Gauge("kubecore_event_loop_lag_seconds", "How late the event loop ran a timer, last measurement")
