"""The AKS adapter: the only module that imports the Azure SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from azure.core import AzureClouds, MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError
from azure.identity.aio import ClientSecretCredential, ManagedIdentityCredential, WorkloadIdentityCredential
from azure.mgmt.containerservice.aio import ContainerServiceClient

from gpu_provisioner.cloud.failure import CloudError, CloudFailure, ErrorDetail, FailureClass, classify
from gpu_provisioner.pools.plan import CloudPool
from gpu_provisioner.pools.shape import owned_pool
from gpu_provisioner.settings import AzureSettings

T = TypeVar("T")
CALL_SECONDS = 60.0
"""Deadline of one call, its answer included: the service answers a PUT within seconds."""

AUTHORITIES = {
    "AZURE_PUBLIC_CLOUD": "https://login.microsoftonline.com",
    "AZURE_US_GOVERNMENT": "https://login.microsoftonline.us",
    "AZURE_CHINA_CLOUD": "https://login.chinacloudapi.cn",
}


@asynccontextmanager
async def connect(settings: AzureSettings) -> AsyncIterator[AksAgentPools]:
    """Opens the client with the credential that the settings name; closes both at the end."""
    trust = {"connection_verify": settings.ca_file} if settings.ca_file else {}
    async with AsyncExitStack() as stack:
        credential = await stack.enter_async_context(_credential(settings, trust))
        client = await stack.enter_async_context(
            ContainerServiceClient(
                credential,
                settings.subscription_id,
                base_url=settings.endpoint or None,
                cloud_setting=AzureClouds[settings.cloud],
                retry_total=0,  # our own back-off: the built-in one sleeps any Retry-After inside the call
                user_agent=settings.user_agent,
                **trust,
                **({"credential_scopes": [f"{settings.audience}/.default"]} if settings.audience else {}),
            )
        )
        yield AksAgentPools(client, settings.resource_group, settings.cluster_name)


def _credential(settings: AzureSettings, trust: dict[str, Any]) -> Any:
    authority = settings.authority or AUTHORITIES[settings.cloud]
    custom = {"disable_instance_discovery": True} if settings.authority else {}
    if settings.credential == "workload-identity":
        return WorkloadIdentityCredential(
            tenant_id=settings.tenant_id,
            client_id=settings.client_id,
            token_file_path=settings.federated_token_file,
            authority=authority,
            **custom,
            **trust,
        )
    if settings.credential == "client-secret":
        return ClientSecretCredential(
            settings.tenant_id, settings.client_id, settings.client_secret, authority=authority, **custom, **trust
        )
    return ManagedIdentityCredential(client_id=settings.client_id or None)


class AksAgentPools:
    """AgentPools over azure-mgmt-containerservice, polling off: the shared LIST shows how operations end."""

    def __init__(self, client: ContainerServiceClient, resource_group: str, cluster: str) -> None:
        self._client = client
        self._where = (resource_group, cluster)

    async def put(self, name: str, body: dict[str, Any], *, new: bool) -> CloudPool:
        """Creates or changes a pool. `new` sends If-None-Match, so that a stranger's pool of that name is never changed."""
        condition = {"match_condition": MatchConditions.IfMissing} if new else {}
        call = self._client.agent_pools.begin_create_or_update

        async def send() -> CloudPool:
            poller = await call(*self._where, name, body, polling=False, **condition)
            return cloud_pool((await poller.result()).as_dict())

        return await _call(send)

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
        """Every page: an error in a later one loses the whole answer, on purpose."""

        async def send() -> list[CloudPool]:
            return [cloud_pool(pool.as_dict()) async for pool in self._client.agent_pools.list(*self._where)]

        return await _call(send)

    async def machines(self, name: str) -> frozenset[str]:
        """Machine names, empty for a pool that does not exist."""

        async def send() -> frozenset[str]:
            return frozenset([machine.name async for machine in self._client.machines.list(*self._where, name)])

        try:
            return await _call(send)
        except CloudError as error:
            if error.failure.failure is FailureClass.NOT_FOUND:
                return frozenset()
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
