"""Leader election over a Lease (coordination.k8s.io/v1), with client-go's rules.

A candidate takes the lease when it is free, or when it has not seen it change for a whole lease duration on its own monotonic
clock: wall clocks of two machines are never compared. A leader that could not renew for `renew_deadline` (shorter than the
lease) is no leader any more, whatever the server thinks: `is_leader` turns False by itself and `hold` raises LeaderLost.
A slow apiserver does not unseat it as long as a renewal takes less than half of the deadline.

RBAC: get, create and patch on leases.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import uuid
from dataclasses import dataclass, field
from typing import Any, Final, Never

from kaito_api.core import Lease
from kaito_api.meta import Key, micro_time
from kaito_api.resources import LEASES
from kubecore import metrics
from kubecore.client import Client
from kubecore.clock import Clock, SystemClock
from kubecore.errors import AlreadyExists, ApiError, Conflict, KubeError, LeaderLost, NotFound, TransportError

logger = logging.getLogger(__name__)

RELEASE_SECONDS: Final = 2.0


def _identity() -> str:
    return f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4()}"


@dataclass(frozen=True, slots=True)
class LeaderConfig:
    """The lease and its times. With the defaults a crashed leader is replaced within 4.5 s and a stopped one within 0.5 s.

    Raises ValueError for times that would allow two leaders or none.
    """

    name: str
    namespace: str
    identity: str = field(default_factory=_identity)
    lease_seconds: int = 4
    """How long the others wait after the last renewal that they saw."""
    renew_deadline: float = 3.0
    """Seconds after the start of its last good renewal at which a leader stops."""
    renew_seconds: float = 1.0
    """Between two renewals."""
    retry_seconds: float = 0.5
    """Between two attempts, of a candidate and after a failed renewal."""

    def __post_init__(self) -> None:
        if not self.lease_seconds > self.renew_deadline > self.renew_seconds + self.retry_seconds > 0:
            raise ValueError("need lease_seconds > renew_deadline > renew_seconds + retry_seconds")


@dataclass(slots=True)
class LeaseState:
    """What one process knows about the lease. Pure: every time is a monotonic one that the caller gives."""

    identity: str
    renew_deadline: float
    resource_version: str = ""
    holder: str = ""
    transitions: int = 0
    duration: float = 0.0
    changed_at: float = float("-inf")
    valid_until: float = float("-inf")

    def observe(self, lease: Lease, default_duration: float, now: float) -> None:
        """Take what the server has. Only a change restarts the wait for its expiry."""
        if lease.metadata.resource_version == self.resource_version:
            return
        self.resource_version = lease.metadata.resource_version
        self.holder = lease.spec.holder_identity or ""
        self.transitions = lease.spec.lease_transitions or 0
        self.duration = float(lease.spec.lease_duration_seconds or default_duration)
        self.changed_at = now

    def wait_before_taking(self, now: float) -> float:
        """Seconds until the lease may be taken; 0 when it is free, expired or ours."""
        if self.holder in ("", self.identity):
            return 0.0
        return max(0.0, self.changed_at + self.duration - now)

    def granted(self, asked_at: float) -> None:
        """The server stored our renewal, which was sent at `asked_at`: the safe start to count from."""
        self.valid_until = asked_at + self.renew_deadline

    def lost(self) -> None:
        """Stop leading at once."""
        self.valid_until = float("-inf")

    def leads(self, now: float) -> bool:
        """Whether writing is safe at this moment."""
        return now < self.valid_until


class LeaderElector:
    """One candidate. Call `acquire`, then keep `hold` running in a task whose end ends the work, then `release`."""

    def __init__(self, client: Client, config: LeaderConfig, clock: Clock | None = None) -> None:
        """`client` must not be fenced by this very election."""
        self._client = client
        self._config = config
        self._clock = clock or SystemClock()
        self._state = LeaseState(config.identity, config.renew_deadline)
        self._gauge = metrics.LEADER.labels(config.name)
        self._gauge.set(0)

    @property
    def is_leader(self) -> bool:
        """Whether this process may write now. Ask before every write: it turns False by the clock alone."""
        return self._state.leads(self._clock.monotonic())

    @property
    def holder(self) -> str:
        """Identity of the holder as last seen, "" for nobody."""
        return self._state.holder

    async def acquire(self) -> None:
        """Wait until this process leads; errors are retried for ever."""
        seen = None
        while True:
            wait = self._config.retry_seconds * (0.8 + 0.2 * random.random())
            try:
                if await self._attempt(self._config.renew_deadline):
                    self._gauge.set(1)
                    logger.info("leading", extra=self._fields())
                    return
                wait = min(wait, self._state.wait_before_taking(self._clock.monotonic()) or wait)
                if self.holder != seen:
                    seen = self.holder
                    logger.info("standing by", extra=self._fields())
            except (ApiError, TransportError) as error:
                logger.warning("lease cannot be read or written", extra={**self._fields(), "reason": str(error)})
            await self._clock.sleep(wait)

    async def hold(self) -> Never:
        """Renew until cancelled. Raises LeaderLost when the deadline passed or somebody else holds the lease."""
        pause = self._config.renew_seconds
        while True:
            await self._clock.sleep(min(pause, self._left()))
            asked_at = self._clock.monotonic()
            if self._left() <= 0:
                self._lose("could not be renewed in time")
            try:
                renewed = await self._attempt(self._left())
            except (ApiError, TransportError) as error:
                logger.warning("lease not renewed, trying again", extra={**self._fields(), "reason": str(error)})
                pause = self._config.retry_seconds
            else:
                if not renewed:
                    self._lose(f"was taken by {self.holder}")
                # counted from the question: a slow answer must not shorten the time for the next one
                pause = asked_at + self._config.renew_seconds - self._clock.monotonic()

    async def release(self) -> None:
        """Give the lease up, so that a standby need not wait for its expiry. Best effort, at most 2 s; never raises."""
        held = self.is_leader
        self._state.lost()
        self._gauge.set(0)
        if not held:
            return
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._give_up()
            logger.info("lease released", extra=self._fields())
        except (KubeError, TimeoutError) as error:
            logger.warning("lease not released, it will expire", extra={**self._fields(), "reason": str(error)})

    async def _give_up(self) -> None:
        """Write that nobody holds the lease. Raises Conflict where somebody else holds it."""
        spec = {"holderIdentity": None, "leaseDurationSeconds": 1, "renewTime": micro_time(self._clock.now())}
        try:
            await self._patch(spec, RELEASE_SECONDS)
        except Conflict:
            # a renewal that was cancelled on its way was stored all the same, or somebody labelled the lease
            lease = await self._client.get(LEASES, self._key, timeout=RELEASE_SECONDS)
            self._state.observe(lease, self._config.lease_seconds, self._clock.monotonic())
            if self.holder != self._config.identity:
                raise
            await self._patch(spec, RELEASE_SECONDS)

    def _left(self) -> float:
        return self._state.valid_until - self._clock.monotonic()

    def _lose(self, why: str) -> Never:
        self._state.lost()
        self._gauge.set(0)
        raise LeaderLost(f"lease {self._config.namespace}/{self._config.name} {why}")

    async def _attempt(self, timeout: float) -> bool:
        """Take or renew the lease; False while somebody else holds it."""
        if self.is_leader:  # nobody writes to our lease as a rule: no need to read it first
            try:
                return await self._renew(timeout)
            except (Conflict, NotFound):
                pass
        try:
            lease = await self._client.get(LEASES, self._key, timeout=timeout)
        except NotFound:
            return await self._create(timeout)
        self._state.observe(lease, self._config.lease_seconds, self._clock.monotonic())
        if self._state.wait_before_taking(self._clock.monotonic()) > 0:
            return False
        try:
            return await self._renew(timeout)
        except (Conflict, NotFound):
            return False  # another candidate was faster; the next attempt reads who

    async def _renew(self, timeout: float) -> bool:
        asked_at = self._clock.monotonic()
        spec = self._spec()
        if self._state.holder != self._config.identity:
            spec |= {"acquireTime": spec["renewTime"], "leaseTransitions": self._state.transitions + 1}
        lease = await self._patch(spec, timeout)
        self._state.observe(lease, self._config.lease_seconds, self._clock.monotonic())
        self._state.granted(asked_at)
        return True

    async def _create(self, timeout: float) -> bool:
        asked_at = self._clock.monotonic()
        spec = self._spec()
        spec |= {"acquireTime": spec["renewTime"], "leaseTransitions": 0}
        metadata = {"name": self._config.name, "namespace": self._config.namespace}
        try:
            lease = await self._client.create(LEASES, {"metadata": metadata, "spec": spec}, timeout=timeout)
        except AlreadyExists:
            return False
        self._state.observe(lease, self._config.lease_seconds, self._clock.monotonic())
        self._state.granted(asked_at)
        return True

    async def _patch(self, spec: dict[str, Any], timeout: float) -> Lease:
        """Patch the spec of exactly the version last seen; labels and annotations of others stay. Raises Conflict."""
        body = {"metadata": {"resourceVersion": self._state.resource_version}, "spec": spec}
        return await self._client.patch(LEASES, self._key, body, timeout=timeout)

    def _spec(self) -> dict[str, Any]:
        return {
            "holderIdentity": self._config.identity,
            "leaseDurationSeconds": self._config.lease_seconds,
            "renewTime": micro_time(self._clock.now()),
        }

    @property
    def _key(self) -> Key:
        return Key(self._config.namespace, self._config.name)

    def _fields(self) -> dict[str, object]:
        return {"lease": str(self._key), "identity": self._config.identity, "holder": self.holder}
