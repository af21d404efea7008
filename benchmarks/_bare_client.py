"""The anchor of the convergence benchmark: the same writes, sent by nothing but aiohttp, with ready-made bodies.

    python benchmarks/_bare_client.py KUBECONFIG NAMESPACE COUNT

Per Workspace, in this order: the user's, the controller's and the provisioner's writes. Bodies come from the controller's
own planner for one Workspace; name and UID are replaced in the bytes, so that no planning is measured. Prints seconds.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop
import yaml
from _provisioner_standin import claim_status, node_body
from _workspaces import CATALOG, workspace_body

from kaito_api import labels
from kaito_api.core import Node
from kaito_api.meta import Resource
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import EVENTS, NODECLAIMS, NODES, WORKSPACES
from kaito_api.workspace import Workspace
from workspace_controller.catalog_files import load_catalog
from workspace_controller.naming import service_account_name
from workspace_controller.observed import ChildId, Observed
from workspace_controller.plan import plan
from workspace_controller.settings import Settings
from workspace_controller.status.patch import status_patch

CONNECTIONS = 32
NAME, UID, CLAIM = "name-placeholder", "5f0e6b9a-0000-4000-8000-00000000beef", "claim-placeholder"
ACCOUNT = service_account_name(NAME)
JSON, MERGE, APPLY = "application/json", "application/merge-patch+json", "application/apply-patch+yaml"


@dataclass(frozen=True)
class Write:
    """One request with placeholders in path and body."""

    method: str
    path: str
    body: bytes
    kind: str = JSON


def creation(res: Resource[Any], body: dict[str, Any], namespace: str) -> Write:
    whole = {"apiVersion": res.api_version, "kind": res.kind, **body}
    return Write("POST", res.path(namespace if res.namespaced else None), msgspec.json.encode(whole))


def patch(res: Resource[Any], body: dict[str, Any], namespace: str, name: str, subresource: str = "") -> Write:
    path = res.path(namespace if res.namespaced else None, name) + (f"/{subresource}" if subresource else "")
    return Write("PATCH", path, msgspec.json.encode(body), MERGE)


def script(namespace: str) -> list[Write]:
    """Return the writes for one Workspace, the first of which is the user's."""
    catalog, settings, now = load_catalog(CATALOG), Settings(), datetime.now(UTC)
    body = workspace_body(NAME, namespace)
    body["metadata"]["uid"] = UID
    workspace = msgspec.convert({**body, "metadata": {**body["metadata"], "generation": 1}}, Workspace)
    first = plan(Observed(workspace=workspace), catalog, settings, now)
    (claim,) = first.claims
    node = f"node-{CLAIM}"
    node_labels = {**claim.body["metadata"]["labels"], labels.INSTANCE_TYPE: "Standard_NC6s_v3"}
    ready_claim = msgspec.convert({**claim.body, **claim_status(node)}, NodeClaim)
    ready_node = msgspec.convert(node_body(node, node_labels), Node)
    assert first.status is not None
    meta = msgspec.structs.replace(
        workspace.metadata, finalizers=[labels.WORKSPACE_FINALIZER], annotations=first.annotations
    )
    standing = msgspec.structs.replace(workspace, metadata=meta, status=first.status)
    children = {
        ChildId(made.resource.plural, made.name): msgspec.convert(made.body, made.resource.type)
        for made in first.creates
    }
    second = plan(
        Observed(workspace=standing, claims=(ready_claim,), nodes=(ready_node,), children=children),
        catalog,
        settings,
        now,
    )
    assert second.status is not None
    (workload,) = second.applies
    (history,) = second.history
    user = {key: value for key, value in body.items() if key not in ("apiVersion", "kind")}
    user["metadata"] = {key: value for key, value in user["metadata"].items() if key != "uid"}
    claim_body = {**claim.body, "metadata": {**claim.body["metadata"], "name": CLAIM}}
    finalizer = {"metadata": {"finalizers": [labels.WORKSPACE_FINALIZER], "annotations": first.annotations}}
    event = {
        "metadata": {"name": f"{NAME}.created", "namespace": namespace},
        "involvedObject": {"kind": "Workspace", "namespace": namespace, "name": NAME, "uid": UID},
        "reason": first.notices[0].reason,
        "message": first.notices[0].message,
        "type": "Normal",
    }
    return [
        creation(WORKSPACES, user, namespace),
        patch(WORKSPACES, finalizer, namespace, NAME),
        *(creation(made.resource, made.body, namespace) for made in first.creates),
        creation(NODECLAIMS, claim_body, namespace),
        patch(WORKSPACES, {"status": status_patch(workspace.status, first.status)}, namespace, NAME, "status"),
        creation(NODES, node_body(node, node_labels), namespace),
        patch(NODECLAIMS, claim_status(node), namespace, CLAIM, "status"),
        Write(
            "PATCH",
            workload.resource.path(namespace, NAME) + "?fieldManager=workspace-controller&force=true",
            msgspec.json.encode(workload.body),
            APPLY,
        ),
        patch(WORKSPACES, {"status": status_patch(first.status, second.status)}, namespace, NAME, "status"),
        creation(history.resource, history.body, namespace),
        creation(EVENTS, event, namespace),
    ]


def tls(kubeconfig: dict[str, Any]) -> ssl.SSLContext:
    """Return the TLS context of a kubeconfig with files or inline data."""
    import base64
    import tempfile

    def file(section: dict[str, Any], name: str) -> str:
        if name in section:
            return str(section[name])
        with tempfile.NamedTemporaryFile(delete=False) as handle:
            handle.write(base64.b64decode(section[f"{name}-data"]))
        return handle.name

    cluster, user = kubeconfig["clusters"][0]["cluster"], kubeconfig["users"][0]["user"]
    context = ssl.create_default_context(cafile=file(cluster, "certificate-authority"))
    context.load_cert_chain(file(user, "client-certificate"), file(user, "client-key"))
    return context


async def main(kubeconfig: dict[str, Any], namespace: str, count: int) -> None:
    """Send everything and print the seconds that it took."""
    server = kubeconfig["clusters"][0]["cluster"]["server"]
    writes = script(namespace)
    numbers = iter(range(count))
    connector = aiohttp.TCPConnector(ssl=tls(kubeconfig), limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:

        async def work() -> None:
            for number in numbers:
                uid = ""
                for write in writes:
                    uid = await send(session, server, write, number, uid)

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(work())
        print(json.dumps({"seconds": time.perf_counter() - started, "writes": len(writes)}))


async def send(session: aiohttp.ClientSession, server: str, write: Write, number: int, uid: str) -> str:
    """Send one write and return the Workspace's UID, which only the first answer tells."""
    name, claim = f"bare-{number}", f"b{number:010d}"
    path = write.path.replace(NAME, name).replace(CLAIM, claim)
    body = write.body.replace(NAME.encode(), name.encode()).replace(CLAIM.encode(), claim.encode())
    body = body.replace(UID.encode(), uid.encode() or UID.encode()).replace(ACCOUNT.encode(), b"kaito-%010d" % number)
    async with session.request(write.method, server + path, data=body, headers={"Content-Type": write.kind}) as answer:
        content = await answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{write.method} {path}: {answer.status} {content[:300]!r}")
    return uid or msgspec.json.decode(content)["metadata"]["uid"]


if __name__ == "__main__":
    uvloop.run(main(yaml.safe_load(Path(sys.argv[1]).read_text()), sys.argv[2], int(sys.argv[3])))
