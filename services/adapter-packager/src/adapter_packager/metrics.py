"""What a push has done so far, for Prometheus, at /metrics: it may be held for an hour, and a GPU node is paid for meanwhile."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adapter_packager.counted import CountedBlob
from kaito_oci import Blob
from kubecore.clock import Clock

_log = logging.getLogger(__name__)


class Phase(StrEnum):
    """What a push does; values of the label `phase`."""

    READ = "read"
    """Checks the adapter and computes its digests."""
    SIGN = "sign"
    PUSH = "push"
    HOLD = "hold"
    """Waits for the registry, the Secret or the key, until the next attempt."""


class Figures(Collector):
    """The numbers of one push. Collected in another thread than they are changed in: each is replaced, never half written."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._phase: Phase | None = None
        self._since = 0.0
        self._seconds = dict.fromkeys(Phase, 0.0)
        self._retries: Counter[str] = Counter()
        self._begun: float | None = None
        self._limit: float | None = None
        self._blobs: list[CountedBlob] | None = None
        self._sent = 0
        self._done = 0

    def enter(self, phase: Phase | None) -> None:
        """Begin a phase, which ends the one before; None when all is done."""
        now = self._clock.monotonic()
        if self._phase is not None:
            self._seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def counted(self, blobs: Sequence[Blob]) -> list[Blob]:
        """Return these blobs, which are to be pushed, so that what is sent of them counts."""
        made = [CountedBlob(blob, self._read) for blob in blobs]
        self._blobs = made
        return [*made]

    def begin(self, limit: float | None) -> None:
        """The first attempt begins; failed ones are repeated for `limit` seconds from now."""
        self._begun, self._limit = self._clock.monotonic(), limit

    def retried(self, reason: str) -> None:
        """An attempt failed, and there will be another one."""
        self._retries[reason] += 1
        self.enter(Phase.HOLD)

    def moved(self, done: int) -> None:
        """Bytes of the image that the registry has taken or had before."""
        self._done = done

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        spent = CounterMetricFamily("kaito_packager_phase_seconds", "Time spent in each phase so far", labels=["phase"])
        for phase, seconds in self._seconds.items():
            running = self._clock.monotonic() - self._since if phase is self._phase else 0.0
            spent.add_metric([phase], seconds + running)
        yield spent
        retries = CounterMetricFamily(
            "kaito_packager_retries", "Failed attempts that are repeated, by the report's reason", labels=["reason"]
        )
        for reason, count in list(self._retries.items()):
            retries.add_metric([reason], count)
        yield retries
        words = "Bytes sent to the registry; what is sent once more counts once more"
        yield CounterMetricFamily("kaito_packager_pushed_bytes", words, value=self._sent)
        words = "Bytes that were not sent, for the registry had them"
        yield CounterMetricFamily("kaito_packager_skipped_bytes", words, value=self._skipped())
        words = "Bytes of the image that the registry has taken or had, in this attempt"
        yield GaugeMetricFamily("kaito_packager_done_bytes", words, value=self._done)
        if self._blobs is not None:
            yield GaugeMetricFamily("kaito_packager_image_bytes", "Bytes of the whole image", value=self._total())
        words = "Time to hold on that is used up: since the first attempt began; 0 while none has failed"
        yield GaugeMetricFamily("kaito_packager_hold_seconds", words, value=self._held())
        if self._limit is not None:
            words = "Time for which failed attempts are repeated"
            yield GaugeMetricFamily("kaito_packager_hold_limit_seconds", words, value=self._limit)

    def _read(self, count: int) -> None:
        self._sent += count

    def _total(self) -> int:
        return sum(blob.descriptor.size for blob in self._blobs or ())

    def _skipped(self) -> int:
        """Blobs go one after the other: what is behind the last one that was sent is not decided before all is done."""
        blobs = self._blobs or []
        sent = [number for number, blob in enumerate(blobs) if blob.opened]
        decided = len(blobs) if self._done >= self._total() else max(sent, default=0)
        return sum(blob.descriptor.size for blob in blobs[:decided] if not blob.opened)

    def _held(self) -> float:
        if self._begun is None or not self._retries:
            return 0.0
        return self._clock.monotonic() - self._begun


@asynccontextmanager
async def serving(port: int, figures: Figures) -> AsyncIterator[None]:
    """Serve /metrics while the block runs, beside the client's own; port 0 serves nothing. A port that is taken fails no push."""
    if port == 0:
        yield
        return
    from kubecore.health import serve_metrics

    REGISTRY.register(figures)
    try:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(serve_metrics(port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                _log.warning("no /metrics: the port is taken", extra={"port": port})
            yield
    finally:
        REGISTRY.unregister(figures)
