"""Keeps the webhook trusted without a Secret: makes this replica's certificate, publishes it, renews it in time.

The certificate goes into the caBundle of the ValidatingWebhookConfiguration, beside those of the other replicas; the key stays
in this process and its private folder. The configuration is watched: what an upgrade or a hand takes out is put back. A failure
costs the validation at admission (failurePolicy Ignore) and nothing else: it is logged and tried again.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from pathlib import Path
from typing import Final

import msgspec

from kaito_api.meta import Key, ObjectMeta, Resource
from kubecore.backoff import Backoff, BackoffPolicy
from kubecore.client import Client
from kubecore.clock import Clock
from kubecore.errors import KubeError
from kubecore.informer import Informer
from workspace_controller.webhook_certificate import RENEW_BEFORE, Issued, bundle, issue

logger = logging.getLogger(__name__)

SPREAD_SECONDS: Final = 30.0
"""From publishing a renewed certificate to serving it: every apiserver has seen it by then."""
_RETRY: Final = BackoffPolicy(base=1.0, cap=60.0)


class _ClientConfig(msgspec.Struct, frozen=True, rename="camel"):
    ca_bundle: str = ""


class _Hook(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    client_config: _ClientConfig = _ClientConfig()


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a ValidatingWebhookConfiguration."""

    metadata: ObjectMeta
    webhooks: list[_Hook] = []


CONFIGURATIONS: Final = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    False,
    Configuration,
)


class WebhookTrust:
    """The certificate of this replica. Runs in every replica: `client` must not be fenced by an election."""

    def __init__(
        self, client: Client, *, configuration: str, host: str, replica: str, folder: Path, clock: Clock
    ) -> None:
        """`host`: by which the apiserver calls. `folder`: private; gets tls.crt and tls.key at once."""
        self._client = client
        self._key = Key("", configuration)
        self._host = host
        self._replica = replica
        self._folder = folder
        self._clock = clock
        self._wake = asyncio.Event()
        self._current = self._issue()
        self._next: Issued | None = None
        self._store(self._current)
        selector = f"metadata.name={configuration}"
        self.informer: Informer[Configuration] = Informer(client, CONFIGURATIONS, field_selector=selector)
        self.informer.add_handler(lambda _: self._wake.set())

    async def run(self) -> None:
        """Publish and renew until cancelled."""
        backoff = Backoff(_RETRY)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.informer.run())
            while True:
                self._wake.clear()
                try:
                    pause = await self._step()
                    backoff.reset()
                except KubeError as error:
                    pause = backoff.next()
                    logger.warning("webhook certificate not published", extra={"reason": str(error), "again_in": pause})
                await self._sleep(pause)

    async def _step(self) -> float:
        """Do what is due; return the seconds until the next look. Raises KubeError."""
        due = (self._current.expires - RENEW_BEFORE - self._clock.now()).total_seconds()
        if self._next is None and due > 0:
            await self._publish((self._current.certificate,))
            return due
        if self._next is None:
            self._next = self._issue()
            await self._publish((self._current.certificate, self._next.certificate))
            await self._clock.sleep(SPREAD_SECONDS)
        self._current, self._next = self._next, None
        self._store(self._current)
        logger.info("webhook certificate renewed", extra={"expires": self._current.expires.isoformat()})
        return 0.0

    async def _publish(self, mine: tuple[bytes, ...]) -> None:
        """Have the configuration name `mine`; nothing is written where it does. Raises KubeError."""
        found = self.informer.get(self._key)
        if found is None:  # not installed, or not seen yet: its arrival wakes us
            return
        steps: list[dict[str, str]] = []
        for number, hook in enumerate(found.webhooks):
            standing = base64.b64decode(hook.client_config.ca_bundle)
            wanted = bundle(standing, mine, self._clock.now())
            if wanted != standing:
                path = f"/webhooks/{number}/clientConfig/caBundle"
                steps.append({"op": "add", "path": path, "value": base64.b64encode(wanted).decode()})
        if not steps:
            return
        # Another replica may write at the same moment: a version that has passed is refused, and the watch wakes us.
        same = {"op": "replace", "path": "/metadata/resourceVersion", "value": found.metadata.resource_version}
        self.informer.record(await self._client.patch(CONFIGURATIONS, self._key, [same, *steps]))
        logger.info("webhook certificate published", extra={"configuration": self._key.name})

    def _issue(self) -> Issued:
        return issue(self._host, self._replica, self._clock.now())

    def _store(self, issued: Issued) -> None:
        """Write key and certificate as the server reads them: each file whole, the certificate last."""
        for name, content in (("tls.key", issued.key), ("tls.crt", issued.certificate)):
            part = self._folder / f".{name}"
            part.touch(mode=0o600)
            part.write_bytes(content)
            part.replace(self._folder / name)

    async def _sleep(self, seconds: float) -> None:
        """Wait that long, or until the configuration changes."""
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(self._clock.sleep(seconds)), group.create_task(self._wake.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
