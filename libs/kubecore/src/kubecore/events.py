"""Kubernetes Events (core/v1) for people: what happened to an object, seen by `kubectl describe`.

Recording never waits and never fails: a bounded buffer is sent by one task. The same event again within the window is only
counted; after it the count is patched onto the event that exists.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, Never

from kaito_api.meta import Key, Object, Resource
from kaito_api.resources import EVENTS
from kubecore import metrics
from kubecore.backoff import Backoff, BackoffPolicy
from kubecore.client import Client
from kubecore.clock import Clock, SystemClock
from kubecore.errors import ApiError, KubeError, NotFound, ServerError, TooManyRequests, TransportError

logger = logging.getLogger(__name__)

EventKind = Literal["Normal", "Warning"]
MAX_MESSAGE: Final = 1024
MAX_NAME: Final = 220
ATTEMPTS: Final = 4


class _Subject(NamedTuple):
    """What makes two events the same one."""

    kind: str
    api_version: str
    key: Key
    uid: str
    type: EventKind
    reason: str
    message: str


@dataclass(slots=True)
class _Waiting:
    first: datetime
    last: datetime
    count: int


@dataclass(slots=True)
class _Sent:
    key: Key
    at: float
    count: int
    unsent: int = 0


class EventRecorder:
    """Give it to a Manager with `manager.add_task("events", recorder.run)`, or run it in a TaskGroup."""

    def __init__(
        self, client: Client, component: str, *, clock: Clock | None = None, window: float = 300.0, capacity: int = 1000
    ) -> None:
        """`component` is shown as the source; `window` in seconds; beyond `capacity` unsent events new ones are dropped."""
        self._client = client
        self._component = component
        self._clock = clock or SystemClock()
        self._window = window
        self._capacity = capacity
        self._waiting: OrderedDict[_Subject, _Waiting] = OrderedDict()
        self._sent: OrderedDict[_Subject, _Sent] = OrderedDict()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def record(self, obj: Object, res: Resource[Any], type: EventKind, reason: str, message: str) -> None:  # noqa: A002
        """Note that something happened to `obj`. `reason` is CamelCase and stable; `message` is for people, cut at 1 KiB."""
        meta = obj.metadata
        subject = _Subject(res.kind, res.api_version, meta.key, meta.uid, type, reason, message[:MAX_MESSAGE])
        now = self._clock.now()
        waiting = self._waiting.get(subject)
        if waiting is not None:
            waiting.count += 1
            waiting.last = now
            return
        sent = self._sent.get(subject)
        if sent is not None and self._clock.monotonic() - sent.at < self._window:
            sent.unsent += 1
            return
        if len(self._waiting) >= self._capacity:
            metrics.EVENTS_DROPPED.labels("buffer_full").inc()
            return
        self._waiting[subject] = _Waiting(now, now, 1)
        self._empty.clear()
        self._wake.set()

    async def run(self) -> Never:
        """Send until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                subject = next(iter(self._waiting))
                await self._deliver(subject, self._waiting[subject])
                self._waiting.pop(subject, None)
            self._empty.set()

    async def flush(self, timeout: float) -> None:
        """Wait until everything is sent, at most `timeout` seconds; what is left is dropped. Needs `run` to be running."""
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            metrics.EVENTS_DROPPED.labels("shutdown").inc(len(self._waiting))

    async def _deliver(self, subject: _Subject, waiting: _Waiting) -> None:
        backoff = Backoff(BackoffPolicy(base=0.5, cap=10.0))
        for _ in range(ATTEMPTS):
            try:
                await self._send(subject, waiting)
                return
            except (TransportError, ServerError, TooManyRequests) as error:
                last: KubeError = error
                await self._clock.sleep(backoff.next())
            except KubeError as error:  # such as a namespace that is going: the same answer would come again
                last = error
                break
        metrics.EVENTS_DROPPED.labels(type(last).__name__).inc()
        logger.warning("event dropped", extra={"event_reason": subject.reason, "reason": str(last)})

    async def _send(self, subject: _Subject, waiting: _Waiting) -> None:
        sent = self._sent.pop(subject, None)
        if sent is not None:
            count = sent.count + sent.unsent + waiting.count
            patch = {"count": count, "lastTimestamp": _whole(waiting.last)}
            try:
                await self._client.patch(EVENTS, sent.key, patch)
            except NotFound:
                sent = None
            except ApiError:
                self._sent[subject] = sent
                raise
            else:
                self._remember(subject, sent.key, count)
        if sent is None:
            event = self._event(subject, waiting)
            await self._client.create(EVENTS, event)
            self._remember(subject, Key(event["metadata"]["namespace"], event["metadata"]["name"]), waiting.count)

    def _remember(self, subject: _Subject, key: Key, count: int) -> None:
        self._sent[subject] = _Sent(key, self._clock.monotonic(), count)
        while len(self._sent) > self._capacity:
            self._sent.popitem(last=False)

    def _event(self, subject: _Subject, waiting: _Waiting) -> dict[str, Any]:
        namespace = subject.key.namespace or "default"
        tag = hashlib.sha256(f"{subject}{waiting.first.timestamp()}".encode()).hexdigest()[:16]
        involved = {
            "kind": subject.kind,
            "apiVersion": subject.api_version,
            "name": subject.key.name,
            "namespace": subject.key.namespace,
            "uid": subject.uid,
        }
        return {
            "metadata": {"name": f"{subject.key.name[:MAX_NAME]}.{tag}", "namespace": namespace},
            "involvedObject": {name: value for name, value in involved.items() if value},
            "type": subject.type,
            "reason": subject.reason,
            "message": subject.message,
            "count": waiting.count,
            "firstTimestamp": _whole(waiting.first),
            "lastTimestamp": _whole(waiting.last),
            "source": {"component": self._component},
            "reportingComponent": self._component,
        }


def _whole(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
