"""Namespaces of tests, removed to the last object even where no controller manager finalizes them."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import aiohttp

_TIMEOUT = aiohttp.ClientTimeout(total=30)
_FOREGROUND = {"propagationPolicy": "Background", "gracePeriodSeconds": 0}


class NamespacePurger:
    """Deletes a namespace and everything in it, finalizers notwithstanding. Only for namespaces that a test made."""

    def __init__(self, url: str, pki: Path) -> None:
        """Speaks as the admin whose certificate lies in `pki`."""
        self._url = url
        self._pki = pki
        self._collections: list[str] | None = None

    async def purge(self, namespace: str) -> None:
        """Empties the namespace, strips what finalizers are left and finalizes it."""
        context = ssl.create_default_context(cafile=str(self._pki / "ca.crt"))
        context.load_cert_chain(self._pki / "admin.crt", self._pki / "admin.key")
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(self._url, connector=connector, timeout=_TIMEOUT) as session:
            # Deleted first, so that nothing new can be made in it.
            await self._delete(session, f"/api/v1/namespaces/{namespace}")
            if self._collections is None:
                self._collections = await _namespaced_collections(session)
            async with asyncio.TaskGroup() as group:
                for collection in self._collections:
                    group.create_task(self._empty(session, collection.format(namespace=namespace)))
            finalize = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}, "spec": {}}
            async with session.put(f"/api/v1/namespaces/{namespace}/finalize", json=finalize) as response:
                if response.status not in {200, 404, 409}:
                    response.raise_for_status()

    async def _empty(self, session: aiohttp.ClientSession, collection: str) -> None:
        if not await _items(session, collection):
            return
        await self._delete(session, collection)
        for item in await _items(session, collection):
            path = f"{collection}/{item['metadata']['name']}"
            patch = {"metadata": {"finalizers": None}}
            headers = {"Content-Type": "application/merge-patch+json"}
            async with session.patch(path, json=patch, headers=headers) as response:
                if response.status not in {200, 404}:
                    response.raise_for_status()
            await self._delete(session, path)

    @staticmethod
    async def _delete(session: aiohttp.ClientSession, path: str) -> None:
        async with session.delete(path, json=_FOREGROUND) as response:
            if response.status not in {200, 202, 404, 409}:
                response.raise_for_status()


async def _items(session: aiohttp.ClientSession, collection: str) -> list[dict[str, Any]]:
    while True:  # bounded by the session's timeout for each call and by the few seconds that a 429 lasts
        async with session.get(collection) as response:
            if response.status == 404:
                return []
            if response.status != 429:
                response.raise_for_status()
                items: list[dict[str, Any]] = (await response.json()).get("items") or []
                return items
            # "storage is (re)initializing": the first reader of a custom resource, or one after its CRD changed.
            await asyncio.sleep(float(response.headers.get("Retry-After", "1")))


async def _namespaced_collections(session: aiohttp.ClientSession) -> list[str]:
    """Paths, with {namespace} open, of every namespaced resource that can be listed and deleted as a collection."""
    async with session.get("/apis") as response:
        groups = (await response.json())["groups"]
    roots = ["/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)]
    found = []
    for root in roots:
        async with session.get(root) as response:
            if response.status != 200:
                continue  # an aggregated API that is away has nothing that a test could have made
            resources = (await response.json())["resources"]
        found += [
            f"{root}/namespaces/{{namespace}}/{resource['name']}"
            for resource in resources
            if resource["namespaced"] and {"list", "deletecollection"} <= set(resource["verbs"])
        ]
    return found
