"""The controller's own metrics: how Workspaces stand, how long they took, why they fail, what their machines cost.

What stands is counted from the caches at each scrape, so that no series outlives its Workspace. Only the leader shows it:
the sum over all replicas is right.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from kaito_api import labels
from kaito_api.conditions import ClaimReason, Reason, Status, WorkspaceCondition, find_condition
from kaito_api.workspace import Workspace
from kaito_api.workspace_status import Phase, WorkspaceState, WorkspaceStatus
from workspace_controller.catalog import Catalog
from workspace_controller.claims import Claim, workspace_of
from workspace_controller.journey import first_success
from workspace_controller.plan_error import PlanError

BUCKETS: Final = (1, 3, 10, 30, 60, 120, 180, 300, 450, 600, 900, 1800, 3600, 7200, 21600, 86400)
"""Seconds: from an image that is there already to a day of training."""
RATIO_BUCKETS: Final = (0.25, 0.5, 0.67, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.25, 1.5, 2, 4)
"""Finest around 1, a plan that came true."""
_WAITING: Final = frozenset(
    {
        Reason.PENDING,
        Reason.NODE_CLAIM_NOT_READY,
        Reason.NODE_NOT_READY,
        Reason.RESOURCE_NOT_READY,
        Reason.INFERENCE_PENDING,
        Reason.WEIGHTS_LOADING,
        Reason.ENGINE_STARTING,
        Reason.ADAPTERS_PENDING,
        Reason.JOB_PENDING,
        Reason.WAITING_FOR_ACCESS,
        # What a claim says on its way, until its node offers what was asked for.
        ClaimReason.AWAITING_RECONCILIATION,
        ClaimReason.RECONCILING_DEPENDENTS,
        ClaimReason.NOT_LAUNCHED,
        ClaimReason.NODE_NOT_FOUND,
        ClaimReason.STARTUP_TAINTS_EXIST,
        ClaimReason.KNOWN_EPHEMERAL_TAINTS_EXIST,
        ClaimReason.RESOURCE_NOT_REGISTERED,
    }
)
"""Reasons of a condition that is not True and need nobody: time alone is missing."""


class Standing(NamedTuple):
    """A gauge that is counted at each scrape: name, labels, meaning."""

    name: str
    labels: tuple[str, ...]
    text: str


COUNT: Final = Standing(
    "kaito_workspace_count",
    ("namespace", "state", "reason"),
    "Workspaces by state and by the reason of WorkspaceSucceeded",
)
COST: Final = Standing(
    "kaito_workspace_estimated_cost_usd_per_hour",
    ("namespace", "workspace", "instance_type"),
    "List price of the machines that exist for a Workspace's claims; nodes that users bring are not counted",
)
UNPRICED: Final = Standing(
    "kaito_workspace_unpriced_machines", ("instance_type",), "Machines whose price the catalog does not know"
)
PRICED_AT: Final = Standing(
    "kaito_workspace_prices_timestamp_seconds", (), "Unix time of the day of the oldest price list in use"
)
STANDING: Final = (COUNT, COST, UNPRICED, PRICED_AT)


class Metrics:
    """What is counted as it happens.

    Series that come seldom stand at 0 from the start: a rate does not see the first value of a series that was not there.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.phase = Histogram(
            "kaito_workspace_phase_duration_seconds",
            "Time that each phase on the way to a model or an adapter took",
            ["phase"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.ready = Histogram(
            "kaito_workspace_ready_duration_seconds",
            "Time from the Workspace's creation until it served for the first time, or its tuning succeeded",
            ["kind"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.failures = Counter(
            "kaito_workspace_failures",
            "Times that a condition of a Workspace began to say so: a plan refused, a pod failing, no machine",
            ["condition", "reason"],
            registry=registry,
        )
        self.plan_error = Histogram(
            "kaito_workspace_plan_error_ratio",
            "What came true over what the plan predicted, once when a Workspace first serves or a tuning run succeeds: tokens of "
            "context, tokens of KV cache, bytes of training memory (the plan's is a lower bound)",
            ["quantity", "preset"],
            buckets=RATIO_BUCKETS,
            registry=registry,
        )
        self.traces = Counter(
            "kaito_workspace_traces",
            "OpenTelemetry traces of the way to a model, by outcome: sent, failed, dropped (too many wait)",
            ["outcome"],
            registry=registry,
        )

        for kind in ("inference", "tuning"):
            self.ready.labels(kind)
        for phase in Phase:
            self.phase.labels(phase)

    def told(self, workspace: Workspace, after: WorkspaceStatus, now: datetime) -> None:
        """Count what the status `after`, which has just been written, says for the first time."""
        before = workspace.status
        finished = {phase.name for phase in before.phases if phase.finished_at is not None}
        for phase in after.phases:
            if phase.finished_at is not None and phase.name not in finished:
                seconds = (phase.finished_at - phase.started_at).total_seconds()
                self.phase.labels(phase.name).observe(max(0.0, seconds))
        created = workspace.metadata.creation_timestamp
        if created is not None and first_success(before, after):
            kind = "tuning" if workspace.tuning is not None else "inference"
            self.ready.labels(kind).observe(max(0.0, (now - created).total_seconds()))
        for condition, reason in new_failures(before, after):
            self.failures.labels(condition, reason).inc()

    def compared(self, errors: Iterable[PlanError]) -> None:
        """Count how far plans were from what came true."""
        for error in errors:
            self.plan_error.labels(error.quantity, error.preset).observe(error.ratio)


def new_failures(before: WorkspaceStatus, after: WorkspaceStatus) -> Iterator[tuple[str, str]]:
    """Yield type and reason of each condition that fails now and did not for that reason before."""
    for condition in after.conditions:
        failing = condition.status == Status.FALSE and condition.reason not in _WAITING
        if not failing or condition.type == WorkspaceCondition.DELETING:
            continue
        old = find_condition(before.conditions, condition.type)
        if old is None or (old.status, old.reason) != (condition.status, condition.reason):
            yield condition.type, condition.reason


class Census(Collector):
    """Counts what stands, from the caches."""

    def __init__(
        self,
        catalog: Catalog,
        workspaces: Callable[[], Iterable[Workspace]],
        claims: Callable[[], Iterable[Claim]],
        leading: Callable[[], bool],
    ) -> None:
        self._catalog = catalog
        self._workspaces = workspaces
        self._claims = claims
        self._leading = leading

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families without samples, so that registering them reads no cache."""
        for standing in STANDING:
            yield _family(standing, {})

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what stands now; nothing on a replica that does not lead."""
        if not self._leading():
            return
        yield _family(COUNT, count(self._workspaces()))
        costs, unpriced = cost(self._claims(), self._catalog)
        yield _family(COST, costs)
        yield _family(UNPRICED, unpriced)
        days = [sku.prices_as_of for sku in self._catalog.skus if sku.usd_per_hour is not None and sku.prices_as_of]
        if days:
            oldest = datetime.fromisoformat(min(days)).replace(tzinfo=UTC)
            yield _family(PRICED_AT, {(): oldest.timestamp()})


def count(workspaces: Iterable[Workspace]) -> dict[tuple[str, ...], float]:
    """Return the number of Workspaces by namespace, state and reason."""
    found: Tally[tuple[str, ...]] = Tally()
    for workspace in workspaces:
        succeeded = find_condition(workspace.status.conditions, WorkspaceCondition.SUCCEEDED)
        reason = succeeded.reason if succeeded is not None else ""
        state = "Deleting" if workspace.metadata.deleting else workspace.status.state or WorkspaceState.PENDING
        found[workspace.metadata.namespace, state, reason] += 1
    return dict(found)


def cost(
    claims: Iterable[Claim], catalog: Catalog
) -> tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]]:
    """Return dollars an hour by namespace, Workspace and type, and the number of machines of unknown price by type.

    A claim under deletion costs until its machine is gone; one without a machine costs nothing yet.
    """
    costs: Tally[tuple[str, ...]] = Tally()
    unpriced: Tally[tuple[str, ...]] = Tally()
    for claim in claims:
        owner = workspace_of(claim)
        if not owner.name or not claim.status.provider_id:
            continue
        name = _instance_type(claim)
        sku = catalog.sku(name)
        if sku is None or sku.usd_per_hour is None:
            unpriced[name,] += 1
        else:
            costs[owner.namespace, owner.name, sku.name] += float(sku.usd_per_hour)  # type: ignore[assignment]
    return dict(costs), dict(unpriced)


def _instance_type(claim: Claim) -> str:
    """Return the type that the provisioner has chosen, else the first one that was asked for."""
    chosen = claim.metadata.labels.get(labels.INSTANCE_TYPE, "")
    asked = (value for need in claim.spec.requirements if need.key == labels.INSTANCE_TYPE for value in need.values)
    return chosen or next(asked, "")


def _family(standing: Standing, samples: dict[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(standing.name, standing.text, labels=standing.labels)
    for key, value in sorted(samples.items()):
        family.add_metric(key, value)
    return family
