"""ARM's routes over the cloud's state: status codes, headers and bodies as the service sends them."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from .bucket import TokenBucket
from .cloud import Cloud, Operation, Pool
from .faults import LIST_EFFECTS, OPERATION_EFFECTS, Fault, FaultScript, Route, flat, nested
from .nodes import MachineSpec

CLUSTER = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.ContainerService/managedClusters/{cluster}"
POOL = CLUSTER + "/agentPools/{pool}"
SHARED_BUCKETS: dict[Route, Route] = {"machines": "get", "machine": "get"}
"""Routes that AKS counts together with another one."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Call:
    """One line of the journal that tests assert on."""

    at: float
    route: Route
    pool: str
    body: Any
    status: int


@dataclass
class Wire:
    """The routes' shared parts: state, script, buckets, valid tokens, and the journal of what was asked."""

    cloud: Cloud
    faults: FaultScript
    buckets: dict[str, TokenBucket]
    now: Callable[[], float]
    tokens: set[str] = field(default_factory=set)
    token_seconds: int = 3600
    journal: list[Call] = field(default_factory=list)

    def application(self) -> web.Application:
        """The web application, ready to be served over TLS."""
        app = web.Application(client_max_size=1 << 20)
        app.add_routes(
            [
                web.put(POOL, self._guard("put", self.put)),
                web.get(POOL, self._guard("get", self.get)),
                web.delete(POOL, self._guard("delete", self.delete)),
                web.post(POOL + "/deleteMachines", self._guard("post", self.delete_machines)),
                web.get(POOL + "/machines", self._guard("machines", self.machines)),
                web.get(POOL + "/machines/{machine}", self._guard("machine", self.machine)),
                web.get(CLUSTER + "/agentPools", self._guard("list", self.list)),
                web.get(
                    "/subscriptions/{sub}/providers/Microsoft.ContainerService/locations/{loc}/{kind}/{id}",
                    self._guard("operation", self.operation),
                ),
                web.post("/{tenant}/oauth2/v2.0/token", self.token),
            ]
        )
        return app

    def _guard(
        self, route: Route, handler: Callable[[web.Request, Fault | None], Awaitable[web.StreamResponse]]
    ) -> Handler:
        """Authorisation, cluster check, throttling and the fault script around a handler; writes the journal."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            pool = request.match_info.get("pool", "")
            body = await request.json() if request.can_read_body else None
            call = len(self.journal)
            self.journal.append(Call(self.now(), route, pool, body, 0))
            response = await self._admit(request, route, pool, handler)
            self.journal[call] = Call(self.journal[call].at, route, pool, body, response.status)
            return response

        return guarded

    async def _admit(
        self,
        request: web.Request,
        route: Route,
        pool: str,
        handler: Callable[[web.Request, Fault | None], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.tokens:
            challenge = {
                "WWW-Authenticate": 'Bearer authorization_uri="", error="invalid_token", error_description="expired"'
            }
            return web.json_response(
                nested("ExpiredAuthenticationToken", "The access token expired."), status=401, headers=challenge
            )
        identity = self.cloud.identity
        named = request.match_info.get("cluster")
        if named is not None and named.lower() != identity.cluster.lower():
            message = (
                f"The Resource 'Microsoft.ContainerService/managedClusters/{named}' under resource group was not found."
            )
            return web.json_response(
                nested("ResourceNotFound", message), status=404, headers={"x-ms-failure-cause": "gateway"}
            )
        bucket = self.buckets[SHARED_BUCKETS.get(route, route)]
        wait = bucket.take(self.now())
        if wait:
            return web.json_response(
                flat("Throttled", "Too many requests, try later."), status=429, headers={"Retry-After": str(wait)}
            )
        fault = self.faults.next(route, pool)
        if fault is not None and fault.effect == "answer":
            return web.json_response(fault.body, status=fault.status, headers=fault.headers)
        if fault is not None and fault.effect == "hang":
            await asyncio.Event().wait()
        response = await handler(request, fault if fault and fault.effect in OPERATION_EFFECTS | LIST_EFFECTS else None)
        if fault is not None and fault.effect == "drop" and request.transport is not None:
            request.transport.abort()
        response.headers["x-ms-ratelimit-remaining-subscription-writes"] = str(bucket.remaining)
        response.headers["x-ms-request-id"] = secrets.token_hex(16)
        return response

    async def put(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        """Create or update: 201 or 200, 409 while another operation holds the pool."""
        name = request.match_info["pool"]
        properties = (await request.json()).get("properties") or {}
        pool = self.cloud.pools.get(name)
        if request.headers.get("If-None-Match") == "*" and pool is not None:
            return web.json_response(flat("PreconditionFailed", "The pool exists."), status=412)
        if pool is not None and (request.headers.get("If-Match") or pool.etag).strip('"') != pool.etag:
            return web.json_response(flat("PreconditionFailed", "The eTag does not match."), status=412)
        if pool is None and len(self.cloud.pools) >= 100:
            return web.json_response(
                flat("MaxAgentPoolCountReached", "The cluster has 100 agent pools, the maximum."), status=400
            )
        if pool is not None and (busy := self._conflict(pool)):
            return busy
        await asyncio.sleep(self.cloud.timings.put_answer)
        pool, operation, new = self.cloud.put(name, properties, fault)
        return web.json_response(
            self._resource(pool), status=201 if new else 200, headers=self._lro(request, operation)
        )

    async def get(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        """One pool."""
        pool = self.cloud.pools.get(request.match_info["pool"])
        return web.json_response(self._resource(pool)) if pool else self._absent()

    async def delete(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        """202 with both headers; 204 when there is nothing to delete."""
        pool = self.cloud.pools.get(request.match_info["pool"])
        if pool is None:
            return web.Response(status=204)
        running = self.cloud.busy(pool)
        if running is not None and running.verb == "delete":
            return web.Response(status=202, headers=self._lro(request, running, location=True))
        operation = self.cloud.delete(pool, fault)
        return web.Response(status=202, headers=self._lro(request, operation, location=True))

    async def delete_machines(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        """Removes machines by name; 400 for a name that the pool does not have."""
        pool = self.cloud.pools.get(request.match_info["pool"])
        if pool is None:
            return self._absent()
        if busy := self._conflict(pool):
            return busy
        names = list((await request.json())["machineNames"])
        missing = [name for name in names if name not in pool.machines]
        if missing:
            return web.json_response(
                flat("InvalidParameter", f"machines {missing} are not in pool {pool.name}"), status=400
            )
        operation = self.cloud.delete_machines(pool, names, fault)
        return web.Response(status=202, headers=self._lro(request, operation, location=True))

    async def machines(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        """The pool's machines."""
        pool = self.cloud.pools.get(request.match_info["pool"])
        if pool is None:
            return self._absent()
        machines = list(pool.machines.values())
        if fault is not None:
            machines = machines[::2] if fault.effect == "half-list" else []
        return web.json_response({"value": [self._machine(pool, machine) for machine in machines]})

    async def machine(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        """One machine of the pool."""
        pool = self.cloud.pools.get(request.match_info["pool"])
        found = pool.machines.get(request.match_info["machine"]) if pool is not None else None
        if pool is None:
            return self._absent()
        if found is None:
            return web.json_response(flat("NotFound", "Machine not found"), status=404)
        return web.json_response(self._machine(pool, found))

    async def list(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        """All pools, and a nextLink to an empty page, as the service does it."""
        if "page" in request.query:
            return web.json_response({"value": []})
        pools = list(self.cloud.pools.values())
        if fault is not None:
            pools = pools[::2] if fault.effect == "half-list" else []
        link = f"https://{request.host}{request.path}?api-version={request.query.get('api-version', '')}&page=2"
        return web.json_response({"value": [self._resource(p) for p in pools], "nextLink": link})

    async def operation(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        """An operation's status, 200 also when it failed; the Location form answers 202 until the end."""
        operation = self.cloud.operations.get(request.match_info["id"])
        if operation is None:
            return web.json_response(flat("NotFound", "The operation is unknown."), status=404)
        if request.match_info["kind"] == "operationresults":
            return web.Response(status=202 if operation.status == "InProgress" else 204)
        body: dict[str, object] = {
            "name": operation.id,
            "status": operation.status,
            "startTime": operation.started.isoformat(),
        }
        if operation.ended is not None:
            body["endTime"] = operation.ended.isoformat()
        if operation.error is not None:
            body["error"] = operation.error
        return web.json_response(body)

    async def token(self, request: web.Request) -> web.StreamResponse:
        """The OAuth endpoint: any client of the tenant gets a token that this stand-in accepts."""
        form = await request.post()
        self.journal.append(Call(self.now(), "token", "", str(form.get("grant_type")), 200))
        fault = self.faults.next("token", "")
        if fault is not None:
            return web.json_response(fault.body, status=fault.status)
        token = secrets.token_urlsafe(24)
        self.tokens.add(token)
        return web.json_response({"token_type": "Bearer", "expires_in": self.token_seconds, "access_token": token})

    def _conflict(self, pool: Pool) -> web.Response | None:
        running = self.cloud.busy(pool)
        if running is None:
            return None
        message = (
            f"Operation is not allowed: Another agentpool operation ({pool.name} - {pool.state}) is in progress, "
            "please wait for it to finish before starting a new operation. "
            "See https://aka.ms/aks-pending-operation for more details"
        )
        return web.json_response(flat("OperationNotAllowed", message), status=409)

    def _machine(self, pool: Pool, machine: MachineSpec) -> dict[str, Any]:
        return {
            "id": f"{self.cloud.identity.pools_path}/{pool.name}/machines/{machine.node_name}",
            "name": machine.node_name,
            "properties": {"resourceId": machine.provider_id.removeprefix("azure://")},
        }

    def _absent(self) -> web.Response:
        return web.json_response(flat("NotFound", "Agent Pool not found"), status=404)

    def _resource(self, pool: Pool) -> dict[str, Any]:
        echo = {
            "mode": "User",
            "orchestratorVersion": "1.35",
            "currentOrchestratorVersion": "1.35.4",
            "maxPods": 110,
            "osDiskType": "Managed",
            "kubeletDiskType": "OS",
            "scaleDownMode": "Delete",
            "enableNodePublicIP": False,
            "nodeImageVersion": "AKSUbuntu-2204gen2containerd-202611.01.0",
            "powerState": {"code": "Running"},
            "eTag": pool.etag,
        }
        # The service writes this one path element in lower case.
        path = self.cloud.identity.pools_path.replace("/resourceGroups/", "/resourcegroups/")
        properties = {**echo, **pool.properties, "provisioningState": pool.state}
        failed = pool.operation.error if pool.operation is not None and pool.state == "Failed" else None
        if failed is not None:
            properties["status"] = {"provisioningError": failed}
        return {
            "id": f"{path}/{pool.name}",
            "name": pool.name,
            "type": "Microsoft.ContainerService/managedClusters/agentPools",
            "properties": properties,
        }

    def _lro(self, request: web.Request, operation: Operation, *, location: bool = False) -> dict[str, str]:
        """The operation headers: signed and long, as the service's are, so that header limits are under test too."""
        identity = self.cloud.identity
        base = f"https://{request.host}/subscriptions/{identity.subscription}/providers/Microsoft.ContainerService/locations/{identity.location}"
        query = f"api-version=2016-03-30&t=639000000000000000&c={'M' * 2400}&s={'S' * 342}&h=kaito"
        headers = {"Azure-AsyncOperation": f"{base}/operations/{operation.id}?{query}"}
        if location:
            headers["Location"] = f"{base}/operationresults/{operation.id}?{query}"
        return headers
