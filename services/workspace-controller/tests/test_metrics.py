"""What the controller's metrics say about Workspaces and claims, read as Prometheus reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from kaito_api import labels
from kaito_api.nodeclaim import NodeClaim
from kaito_api.workspace import Workspace
from kaito_api.workspace_status import WorkspaceStatus
from workspace_controller.catalog import Catalog
from workspace_controller.metrics import Census, Metrics

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SKU = "Standard_NC6s_v3"


def workspace(name: str = "phi", *, succeeded: str = "", created: float = 90, **status: Any) -> Workspace:
    """A Workspace of team; `succeeded` is "True Reason" or "False Reason" of the condition."""
    content = dict(status)
    if succeeded:
        word, reason = succeeded.split()
        content["conditions"] = [{"type": "WorkspaceSucceeded", "status": word, "reason": reason, "message": ""}]
    metadata = {"name": name, "namespace": "team", "creationTimestamp": (NOW - timedelta(seconds=created)).isoformat()}
    return msgspec.convert({"metadata": metadata, "inference": {}, "status": content}, Workspace)


def claim(name: str, *, provider_id: str = "azure:///1", type_: str = SKU, **marks: str) -> NodeClaim:
    asked = [{"key": labels.INSTANCE_TYPE, "operator": "In", "values": [type_]}]
    owner = {labels.WORKSPACE: "phi", labels.WORKSPACE_NAMESPACE: "team", **marks}
    content = {"metadata": {"name": name, "labels": owner}, "spec": {"requirements": asked}}
    return msgspec.convert({**content, "status": {"providerID": provider_id}}, NodeClaim)


def scrape(
    catalog: Catalog, workspaces: list[Workspace], claims: list[NodeClaim], *, leads: bool = True
) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Census(catalog, lambda: workspaces, lambda: claims, lambda: leads))
    return registry


def test_workspaces_by_state_and_reason(catalog: Catalog) -> None:
    found = scrape(
        catalog,
        [
            workspace("a", state="Ready", succeeded="True workspaceSucceeded"),
            workspace("b", state="Ready", succeeded="True workspaceSucceeded"),
            workspace("c", state="Pending", succeeded="False PresetUnknown"),
            workspace("d"),
        ],
        [],
    )
    name = "kaito_workspace_count"
    ready = {"namespace": "team", "state": "Ready", "reason": "workspaceSucceeded"}
    assert found.get_sample_value(name, ready) == 2
    assert found.get_sample_value(name, {"namespace": "team", "state": "Pending", "reason": "PresetUnknown"}) == 1
    assert found.get_sample_value(name, {"namespace": "team", "state": "Pending", "reason": ""}) == 1


def test_machines_that_exist_cost_their_list_price(catalog: Catalog) -> None:
    price = Decimal("3.06")
    skus = tuple(msgspec.structs.replace(sku, usd_per_hour=price if sku.name == SKU else None) for sku in catalog.skus)
    known = msgspec.structs.replace(catalog, skus=skus)
    claims = [claim("a"), claim("b"), claim("c", provider_id=""), claim("d", type_="Standard_X")]
    found = scrape(known, [], claims)
    where = {"namespace": "team", "workspace": "phi", "instance_type": SKU}
    assert found.get_sample_value("kaito_workspace_estimated_cost_usd_per_hour", where) == pytest.approx(6.12)
    assert found.get_sample_value("kaito_workspace_unpriced_machines", {"instance_type": "Standard_X"}) == 1


def test_the_type_that_came_counts_not_the_one_asked_for(catalog: Catalog) -> None:
    found = scrape(catalog, [], [claim("a", **{labels.INSTANCE_TYPE: "Standard_Y"})])
    assert found.get_sample_value("kaito_workspace_unpriced_machines", {"instance_type": "Standard_Y"}) == 1


def test_the_day_of_the_prices(catalog: Catalog) -> None:
    skus = tuple(msgspec.structs.replace(s, usd_per_hour=Decimal(1), prices_as_of="2025-06-01") for s in catalog.skus)
    found = scrape(msgspec.structs.replace(catalog, skus=skus), [], [])
    day = datetime(2025, 6, 1, tzinfo=UTC).timestamp()
    assert found.get_sample_value("kaito_workspace_prices_timestamp_seconds") == day


def test_a_replica_that_does_not_lead_shows_nothing(catalog: Catalog) -> None:
    assert list(scrape(catalog, [workspace()], [claim("a")], leads=False).collect()) == []


def told(before: Workspace, **after: Any) -> CollectorRegistry:
    registry = CollectorRegistry()
    Metrics(registry).told(before, msgspec.convert(after, WorkspaceStatus), NOW)
    return registry


def test_a_phase_is_timed_once_when_it_ends() -> None:
    start, end = "2026-11-21T11:58:00Z", "2026-11-21T11:58:40Z"
    ended = [{"name": "Nodes", "startedAt": start, "finishedAt": end}]
    going = [{"name": "Nodes", "startedAt": start}]
    name, where = "kaito_workspace_phase_duration_seconds_sum", {"phase": "Nodes"}
    assert told(workspace(phases=going), phases=ended).get_sample_value(name, where) == 40
    assert told(workspace(phases=ended), phases=ended).get_sample_value(name, where) == 0, "there before it happens"


@pytest.mark.parametrize(
    ("before", "after", "seconds"),
    [("Pending", "Ready", 90), ("", "Ready", 90), ("NotReady", "Ready", 0), ("Pending", "NotReady", 0)],
)
def test_the_way_to_the_first_answer_is_timed(before: str, after: str, seconds: float) -> None:
    found = told(workspace(state=before), state=after)
    assert found.get_sample_value("kaito_workspace_ready_duration_seconds_sum", {"kind": "inference"}) == seconds


@pytest.mark.parametrize(
    ("before", "after", "counted"),
    [
        ("", "False PresetUnknown", 1),
        ("True workspaceSucceeded", "False PresetUnknown", 1),
        ("False ConfigInvalid", "False PresetUnknown", 1),
        ("False PresetUnknown", "False PresetUnknown", None),
        ("True workspaceSucceeded", "False workspacePending", None),
        ("False workspacePending", "False KnownEphemeralTaintsExist", None),
        ("False workspacePending", "False ResourceNotRegistered", None),
        ("False workspacePending", "False QuotaExceeded", 1),
    ],
)
def test_a_failure_is_counted_when_it_begins(before: str, after: str, counted: int | None) -> None:
    stands = msgspec.to_builtins(workspace(succeeded=after).status)
    found = told(workspace(succeeded=before), **stands)
    where = {"condition": "WorkspaceSucceeded", "reason": after.split()[1]}
    assert found.get_sample_value("kaito_workspace_failures_total", where) == counted
