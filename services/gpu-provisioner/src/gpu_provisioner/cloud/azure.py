"""The AKS adapter: the only module that imports the Azure SDK."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp
from azure.core import AzureClouds, MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.core.rest import HttpRequest
from azure.identity.aio import ClientSecretCredential, ManagedIdentityCredential, WorkloadIdentityCredential
from azure.mgmt.containerservice.aio import ContainerServiceClient
from azure.mgmt.core.tools import get_arm_endpoints

from gpu_provisioner.cloud.failure import CloudError, CloudFailure, ErrorDetail, FailureClass, classify
from gpu_provisioner.pools.plan import CloudPool
from gpu_provisioner.pools.shape import owned_pool
from gpu_provisioner.settings import AzureSettings

T = TypeVar("T")
CALL_SECONDS = 60.0
"""Deadline of one call, its answer included: the service answers a PUT within seconds."""

API_VERSION = "2026-08-01"
"""Of Microsoft.ContainerService, the SDK's own: in it a pool carries the error of its last operation."""
CONNECTIONS = 20
"""Open at once: a PUT's answer takes seconds, and AKS takes 20 of them at once. Each costs both sides a handshake."""
IDLE_SECONDS = 75.0
"""How long an unused connection is kept: longer than the idle interval of the LIST, so that a first PUT finds one open."""

AUTHORITIES = {
    "AZURE_PUBLIC_CLOUD": "https://login.microsoftonline.com",
    "AZURE_US_GOVERNMENT": "https://login.microsoftonline.us",
    "AZURE_CHINA_CLOUD": "https://login.chinacloudapi.cn",
}


@asynccontextmanager
async def connect(settings: AzureSettings) -> AsyncIterator[AksAgentPools]:
    """Opens the client with the credential that the settings name; closes both at the end."""
    endpoint = settings.endpoint or get_arm_endpoints(AzureClouds[settings.cloud])["resource_manager"]
    async with AsyncExitStack() as stack:
        # One TLS context for all connections: given a file name, the SDK reads it for each request, and a new context is a
        # new connection each time.
        tls = ssl.create_default_context(cafile=settings.ca_file or None)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls, limit=CONNECTIONS, keepalive_timeout=IDLE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=bool(getproxies()),  # looking for a proxy costs each request two hops to a thread
            )
        )
        credential = await stack.enter_async_context(_credential(settings, session))
        client = await stack.enter_async_context(
            ContainerServiceClient(
                credential,
                settings.subscription_id,
                base_url=endpoint,
                api_version=API_VERSION,
                cloud_setting=AzureClouds[settings.cloud],
                transport=AioHttpTransport(session=session, session_owner=False),
                retry_total=0,  # our own back-off: the built-in one sleeps any Retry-After inside the call
                user_agent=settings.user_agent,
                **({"credential_scopes": [f"{settings.audience}/.default"]} if settings.audience else {}),
            )
        )
        yield AksAgentPools(client, endpoint, settings)


def _credential(settings: AzureSettings, session: aiohttp.ClientSession) -> Any:
    authority = settings.authority or AUTHORITIES[settings.cloud]
    custom: dict[str, Any] = {"transport": AioHttpTransport(session=session, session_owner=False)}
    if settings.authority:
        custom["disable_instance_discovery"] = True
    if settings.credential == "workload-identity":
        return WorkloadIdentityCredential(
            tenant_id=settings.tenant_id,
            client_id=settings.client_id,
            token_file_path=settings.federated_token_file,
            authority=authority,
            **custom,
        )
    if settings.credential == "client-secret":
        return ClientSecretCredential(
            settings.tenant_id, settings.client_id, settings.client_secret, authority=authority, **custom
        )
    return ManagedIdentityCredential(client_id=settings.client_id or None)


class AksAgentPools:
    """AgentPools over azure-mgmt-containerservice, polling off: the shared LIST shows how operations end."""

    def __init__(self, client: ContainerServiceClient, endpoint: str, settings: AzureSettings) -> None:
        self._client = client
        self._where = (settings.resource_group, settings.cluster_name)
        self._host = urlsplit(endpoint).netloc.lower()
        self._list_url = (
            f"{endpoint.rstrip('/')}/subscriptions/{settings.subscription_id}/resourceGroups/{settings.resource_group}"
            f"/providers/Microsoft.ContainerService/managedClusters/{settings.cluster_name}/agentPools"
            f"?api-version={API_VERSION}"
        )

    async def put(self, name: str, body: dict[str, Any], *, replaces: CloudPool | None) -> None:
        """Creates or changes a pool under a condition, so that neither a stranger's pool nor a count changed meanwhile is lost.

        The answer is not decoded: it echoes the request, and the models take longer to build than the request itself.
        """
        condition: dict[str, Any] = {}
        if replaces is None:
            condition = {"match_condition": MatchConditions.IfMissing}
        elif replaces.etag:
            condition = {"match_condition": MatchConditions.IfNotModified, "etag": replaces.etag}

        async def send() -> None:
            await self._client.agent_pools.begin_create_or_update(*self._where, name, body, polling=False, **condition)

        await _call(send)

    async def delete(self, name: str) -> bool:
        """202 means that the deletion has begun, 204 that there is nothing to delete."""
        statuses: list[int] = []

        async def send() -> None:
            await self._client.agent_pools.begin_delete(
                *self._where,
                name,
                polling=False,
                raw_response_hook=lambda r: statuses.append(r.http_response.status_code),
            )

        await _call(send)
        return 204 not in statuses

    async def delete_machines(self, name: str, machines: tuple[str, ...]) -> None:
        """Removes machines by name."""
        body = {"machineNames": list(machines)}

        async def send() -> None:
            await self._client.agent_pools.begin_delete_machines(*self._where, name, body, polling=False)

        await _call(send)

    async def get(self, name: str) -> CloudPool | None:
        """The pool, None on 404 of the pool; a missing cluster is an error."""

        async def send() -> CloudPool:
            return cloud_pool((await self._client.agent_pools.get(*self._where, name)).as_dict())

        try:
            return await _call(send)
        except CloudError as error:
            if error.failure.failure is FailureClass.NOT_FOUND:
                return None
            raise

    async def list(self) -> list[CloudPool]:
        """Every page: an error in a later one loses the whole answer, on purpose.

        Sent through the client's own pipeline but read as plain JSON: the models cost 2 ms a pool, each few seconds.
        """

        async def send() -> list[CloudPool]:
            pools: list[CloudPool] = []
            url = self._list_url
            while url:
                response = await self._client.send_request(HttpRequest("GET", url))
                response.raise_for_status()
                page = response.json()
                if not isinstance(page, dict):
                    raise CloudError(_foreign(f"a list of agent pools is a JSON object, not {str(page)[:100]!r}"))
                pools += [cloud_pool(resource) for resource in page.get("value") or ()]
                url = self._own(page.get("nextLink") or "")
            return pools

        return await _call(send)

    def _own(self, link: str) -> str:
        """A link of the answer, if it points to the service that was asked: the token goes nowhere else."""
        if link and urlsplit(link).netloc.lower() != self._host:
            raise CloudError(_unavailable(f"the list of agent pools goes on at a foreign address: {link[:100]}"))
        return link

    async def machines(self, name: str) -> frozenset[str]:
        """Machine names, empty for a pool that does not exist."""

        async def send() -> frozenset[str]:
            names = [machine.name or "" async for machine in self._client.machines.list(*self._where, name)]
            return frozenset(each.lower() for each in names)

        try:
            return await _call(send)
        except CloudError as error:
            if error.failure.failure is FailureClass.NOT_FOUND:
                return frozenset()
            raise

    async def has_machine(self, name: str, machine: str) -> bool:
        """False on 404 of the machine or its pool; a missing cluster is an error."""

        async def send() -> bool:
            await self._client.machines.get(*self._where, name, machine)
            return True

        try:
            return await _call(send)
        except CloudError as error:
            if error.failure.failure is FailureClass.NOT_FOUND:
                return False
            raise


async def _call(send: Callable[[], Awaitable[T]]) -> T:
    """Runs one call with a deadline; every way of failing becomes a CloudError."""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return await send()
    except HttpResponseError as error:
        raise CloudError(failure_of(error)) from error
    except TimeoutError as error:
        raise CloudError(_unavailable(f"Azure did not answer within {CALL_SECONDS:.0f} s")) from error
    except AzureError as error:
        raise CloudError(_unavailable(f"Azure cannot be reached: {error.message}")) from error
    except ValueError as error:
        raise CloudError(_foreign(str(error))) from error


def failure_of(error: HttpResponseError) -> CloudFailure:
    """The class of an SDK exception."""
    detail = _detail(error.error) if error.error is not None else ErrorDetail("", error.message or "")
    header = error.response.headers.get("Retry-After") if error.response is not None else None
    retry_after = float(header) if header is not None and header.isdigit() else None
    return classify(error.status_code or 0, detail, retry_after)


def cloud_pool(resource: dict[str, Any]) -> CloudPool:
    """A pool resource of Microsoft.ContainerService as the planner sees it."""
    properties = resource.get("properties") or {}
    state = str(properties.get("provisioningState") or "")
    error = (properties.get("status") or {}).get("provisioningError")
    failure = None
    if state in ("Failed", "Canceled"):
        failure = classify(
            200, _raw_detail(error) if error else ErrorDetail("", f"AKS reports the pool as {state} without a reason")
        )
    return CloudPool(
        name=str(resource.get("name") or ""),
        state=state,
        count=int(properties.get("count") or 0),
        owned=owned_pool(properties.get("tags") or {}, properties.get("nodeLabels") or {}),
        vm_size=str(properties.get("vmSize") or ""),
        etag=str(properties.get("eTag") or ""),
        failure=failure,
    )


def _detail(error: Any) -> ErrorDetail:
    return ErrorDetail(str(error.code or ""), str(error.message or ""), tuple(_detail(d) for d in error.details or ()))


def _raw_detail(error: dict[str, Any]) -> ErrorDetail:
    details = tuple(_raw_detail(d) for d in error.get("details") or ())
    return ErrorDetail(str(error.get("code") or ""), str(error.get("message") or ""), details)


def _unavailable(message: str) -> CloudFailure:
    return CloudFailure(failure=FailureClass.SERVER, code="", message=message, retry_after=5.0)


def _foreign(why: str) -> CloudFailure:
    return _unavailable(f"the answer is not Azure Resource Manager's, a proxy in between may have given it: {why}")
