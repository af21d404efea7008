"""What a pod says about its adapters, watched: to ask again and again would take the time that is to be measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kaito_api.core import Pod
from kaito_api.meta import Key
from kaito_api.report import AdapterReport, decode
from kaito_api.resources import PODS
from kubecore.client import Client
from kubecore.informer import Event, Informer


class PodReports:
    """The newest report of one pod."""

    def __init__(self, client: Client, pod: Key) -> None:
        self._entries: dict[str, AdapterReport] = {}
        self._changed = asyncio.Event()
        selector = f"metadata.name={pod.name}"
        self._informer = Informer(client, PODS, namespace=pod.namespace, field_selector=selector)
        self._informer.add_handler(self._take)

    async def run(self) -> None:
        """Watch until cancelled."""
        await self._informer.run()

    def entry(self, name: str) -> AdapterReport | None:
        """Return what is said about an adapter now."""
        return self._entries.get(name)

    async def wait(self, name: str, wanted: Callable[[AdapterReport], bool]) -> None:
        """Wait until what is said about an adapter is as `wanted`."""
        while (entry := self._entries.get(name)) is None or not wanted(entry):
            self._changed.clear()
            await self._changed.wait()

    def _take(self, event: Event[Pod]) -> None:
        annotations = event.new.metadata.annotations if event.new is not None else {}
        said = decode(annotations.get("kaito.sh/report.model-server", ""))
        self._entries = {entry.name: entry for entry in said.adapters} if said else {}
        self._changed.set()
