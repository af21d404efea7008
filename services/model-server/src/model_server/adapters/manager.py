"""Keeps the engine's adapters equal to the Workspace's, while requests run.

One key per adapter name: deduplicated, never twice at once, retried with backoff. A failure of one adapter touches
neither the others nor the version that it should have replaced.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from kaito_api.conditions import Reason
from kaito_api.meta import Key
from kaito_api.report import AdapterReport
from kaito_api.resources import WORKSPACES
from kaito_api.workspace import Workspace
from kaito_api.workspace_status import AdapterState
from kubecore.backoff import Backoff, BackoffPolicy
from kubecore.clock import Clock, SystemClock
from kubecore.controller import Controller, Result
from model_server.adapters.acquire import STORE_FAILED, AcquireError, Acquirer
from model_server.adapters.engine_adapters import EngineAdapters, EngineRefusedError
from model_server.adapters.mounted import Mounted, look
from model_server.adapters.plan import Actual, Load, Publish, Retire, Revive, Step, Withdraw, apply, gone, plan_adapter
from model_server.adapters.retirement import Retirements
from model_server.adapters.states import AdapterStates
from model_server.adapters.store import AdapterStore
from model_server.adapters.version import Version
from model_server.adapters.wanted import Wanted, wanted
from model_server.metrics import Metrics

if TYPE_CHECKING:
    from kubecore.client import Client
    from kubecore.informer import Event

RESOLVE_SECONDS: Final = 300.0
"""How often a tag is asked again. A changed annotation of the Workspace asks at once."""
RECONCILE_SECONDS: Final = 3600.0
"""A pull may take long; stalled ones are ended by the puller itself."""
SYNC_SECONDS: Final = 30.0
RETRY: Final = BackoffPolicy(base=0.5, cap=120.0)
_logger = logging.getLogger(__name__)


class Attempt(NamedTuple):
    """When this attempt began, and when it knew which version is meant (time.perf_counter)."""

    started: float
    resolved: float


class TryAgainError(Exception):
    """This attempt cannot go on, and its reason is already reported; a later one may."""


class SupersededError(Exception):
    """The plan is out of date: something else is wanted by now, or the version is just gone. A new one is made at once."""


class AdapterManager:
    """The adapters of one server."""

    def __init__(
        self,
        *,
        workspace: Key | None,
        client: Client | None,
        base_name: str,
        mounted: Path,
        adapter_store: AdapterStore,
        acquirer: Acquirer,
        engine: EngineAdapters,
        states: AdapterStates,
        metrics: Metrics,
        capacity: int,
        resolve_seconds: float = RESOLVE_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        """`capacity`: versions that the engine holds in memory at once; 0 if it was started without adapter support."""
        self._workspace = workspace
        self._client = client
        self._base_name = base_name
        self._mount = mounted
        self._mounted = Mounted()
        self._store = adapter_store
        self._acquirer = acquirer
        self._engine = engine
        self._states = states
        self._metrics = metrics
        self._capacity = capacity
        self._resolve_seconds = resolve_seconds
        self._clock = clock or SystemClock()
        self._actual = Actual()
        self._wanted: dict[str, Wanted] = {}
        self._unsettled: set[str] | None = None
        self._loading: set[Version] = set()
        self._crowded: set[str] = set()
        """Names that wait for another version to leave the engine."""
        self._unusable = ""
        self._backoffs: dict[str, Backoff] = {}
        self._retirements = Retirements(engine, self._clock, self._left)
        self._group: asyncio.TaskGroup | None = None
        self._controller = Controller("adapters", self._reconcile, workers=4, reconcile_timeout=RECONCILE_SECONDS)
        self.settled = asyncio.Event()
        """Set once every adapter that was wanted at start is served or has failed."""

    async def run(self) -> None:
        """Work until cancelled."""
        await self._prepare_store()
        self._mounted = await asyncio.to_thread(look, self._mount)
        async with asyncio.TaskGroup() as group:
            self._group = group
            current = await self._watch(group)
            self.want(current, everything=True)
            self._unsettled = set(self._wanted)
            self._settle(None)
            await self._controller.run()

    async def _prepare_store(self) -> None:
        """Make the store ready. One that cannot be written costs the adapters, not the base model."""
        if self._capacity == 0:
            return
        try:
            await asyncio.to_thread(self._store.prepare)
        except OSError as error:
            self._unusable = f"the adapter store cannot be written: {error}; mount a volume at --adapter-store"
            _logger.warning("no adapter store", extra={"error": str(error)})

    async def _watch(self, group: asyncio.TaskGroup) -> Workspace | None:
        """Start watching the Workspace; return it as it is now."""
        if self._client is None or self._workspace is None:
            return None
        from kubecore.informer import Informer

        informer = Informer(
            self._client,
            WORKSPACES,
            namespace=self._workspace.namespace,
            field_selector=f"metadata.name={self._workspace.name}",
        )
        group.create_task(informer.run())
        try:
            await informer.wait_synced(SYNC_SECONDS)
        except TimeoutError as error:
            # The engine must not wait for the apiserver: mounted adapters serve, the others follow.
            _logger.warning("workspace not read yet", extra={"error": str(error)})
        informer.add_handler(self._on_event)
        return informer.get(self._workspace)

    def _on_event(self, event: Event[Workspace]) -> None:
        if event.new is None:
            return  # the Workspace goes, and this pod with it
        annotations = event.old is None or event.old.metadata.annotations != event.new.metadata.annotations
        if annotations or event.old is None or event.old.inference != event.new.inference:
            self.want(event.new, everything=annotations)

    def want(self, workspace: Workspace | None, *, everything: bool) -> None:
        """Take a new desired state and queue what it changes; with `everything`, also what looks unchanged."""
        before, self._wanted = self._wanted, wanted(workspace, self._mounted, str(self._mount), self._base_name)
        self._states.expect(self._wanted)
        loaded = {version.name for version in self._actual.loaded}
        for name in sorted({*before, *self._wanted, *loaded}):
            if everything or before.get(name) != self._wanted.get(name):
                self._controller.enqueue(Key("", name))

    async def _reconcile(self, key: Key) -> Result | None:
        try:
            result = await self._converge(key.name)
        except TryAgainError:
            # Expected and reported: no traceback, and a pace of its own (a registry that is down stays so for a while).
            return Result(requeue_after=self._backoffs.setdefault(key.name, Backoff(RETRY)).next())
        except SupersededError:
            return Result(requeue_after=0)
        except Exception as error:
            item = self._wanted.get(key.name)
            if item is not None:
                self._failed(item, Reason.ENGINE_FAILED, f"unexpected: {type(error).__name__}: {error}; tried again")
            raise
        finally:
            self._settle(key.name)
        self._backoffs.pop(key.name, None)
        return result

    async def _converge(self, name: str) -> Result | None:
        item = self._wanted.get(name)
        if item is None:
            await self._take(name, None, None, None)
            self._dismiss(name)
            return None
        if self._capacity == 0:
            message = "the engine was started without adapter support: restart its pods"
            self._failed(item, Reason.RESTART_REQUIRED, message)
            return None
        if item.problem:
            self._failed(item, Reason.RESTART_REQUIRED if item.needs_restart else Reason.SPEC_INVALID, item.problem)
            return None
        if self._unusable:
            self._failed(item, STORE_FAILED, self._unusable)
            return None
        started = time.perf_counter()
        try:
            resolved = await self._acquirer.resolve(item)
            await self._take(name, item, resolved.version, Attempt(started, time.perf_counter()))
        except AcquireError as error:
            self._failed(item, error.reason, str(error))
            if error.retryable:
                raise TryAgainError(str(error)) from error
            return Result(requeue_after=self._resolve_seconds)
        except EngineRefusedError as error:
            self._failed(item, Reason.ENGINE_FAILED, f"the engine refuses the adapter: {error}")
            return Result(requeue_after=self._resolve_seconds)
        report = self._states.get(name)
        self._ready(item, resolved.version, resolved.note, report.load_seconds if report else 0.0)
        return Result(requeue_after=self._resolve_seconds) if item.image and "@" not in item.image else None

    async def _take(self, name: str, item: Wanted | None, target: Version | None, attempt: Attempt | None) -> None:
        """Execute the plan for one name."""
        for step in plan_adapter(name, target, self._actual):
            await self._execute(step, item, attempt)

    async def _execute(self, step: Step, item: Wanted | None, attempt: Attempt | None) -> None:
        match step:
            case Load(version):
                assert item is not None
                await self._load(item, version)
            case Revive(version):
                await self._revive(version)
            case Publish(version):
                assert item is not None
                assert attempt is not None
                self._require_current(item)
                self._engine.publish(version, item.image or item.folder)
                self._actual = apply(step, self._actual)
                elapsed = time.perf_counter() - attempt.started
                self._metrics.adapter_load.labels("resolve").observe(attempt.resolved - attempt.started)
                self._metrics.adapter_load.labels("total").observe(elapsed)
                self._ready(item, version, "", elapsed)
                _logger.info("adapter served", extra={"adapter": version.engine_name, "seconds": round(elapsed, 3)})
                return
            case Withdraw(name):
                self._engine.withdraw(name)
            case Retire(version):
                assert self._group is not None
                self._actual = apply(step, self._actual)
                self._retirements.start(version, self._group)
                return
        self._actual = apply(step, self._actual)

    async def _load(self, item: Wanted, version: Version) -> None:
        await self._retirements.finished(version)
        # Counted before the first await: four of these run at once, and the engine must never hold one too many.
        self._require_room(item.name)
        self._loading.add(version)
        try:
            folder = await self._acquirer.acquire(
                item, version, lambda: self._progress(item, version, AdapterState.PULLING)
            )
            self._require_current(item)
            self._progress(item, version, AdapterState.LOADING)
            begun = time.perf_counter()
            await self._engine.load(version, folder)
            self._metrics.adapter_load.labels("engine").observe(time.perf_counter() - begun)
        except (SupersededError, EngineRefusedError):
            self._loading.discard(version)
            if not self._engine.may_hold(version):
                await self._clear(version)
            raise
        finally:
            self._loading.discard(version)

    def _require_current(self, item: Wanted) -> None:
        if self._wanted.get(item.name) != item:
            raise SupersededError(item.name)

    def _require_room(self, name: str) -> None:
        """An engine that is full evicts an adapter that may be in use, and then reads its folder inside a step."""
        if len(self._actual.loaded) + len(self._loading) < self._capacity:
            return
        if len(self._wanted) > self._capacity:
            message = f"the engine holds at most {self._capacity} adapters; raise max-cpu-loras and restart"
            raise AcquireError(Reason.RESTART_REQUIRED, message, retryable=False)
        self._crowded.add(name)
        raise AcquireError(Reason.ADAPTERS_PENDING, "waiting for requests on replaced adapters to end", retryable=True)

    async def _left(self, version: Version) -> None:
        """Clear up after a version that the engine does not hold any more."""
        self._actual = gone(version, self._actual)
        self._dismiss(version.name)
        while self._crowded:
            self._controller.enqueue(Key("", self._crowded.pop()))
        await self._clear(version)

    async def _clear(self, version: Version) -> None:
        """Remove the files of a version that the engine does not hold, and what nothing needs any more."""
        await asyncio.to_thread(self._store.remove, version)
        try:
            await self._acquirer.collect(self._kept)
        except OSError as error:  # the disk's trouble, not the engine's: what is left costs space only
            _logger.warning("the adapter store cannot be cleared", extra={"error": str(error)})

    def _kept(self) -> set[str]:
        """Return the digests that must stay in the store: those in use, and what each wanted image was last."""
        used = {version.digest for version in (*self._actual.loaded, *self._loading)}
        return used | {self._store.last_digest(item.image) for item in self._wanted.values() if item.image}

    async def _revive(self, version: Version) -> None:
        """Keep a version that was about to go. Too late: it is gone, and the next attempt loads it again."""
        await self._retirements.stop(version)
        if version not in self._actual.loaded:
            raise SupersededError(version.name)

    def _dismiss(self, name: str) -> None:
        """Drop the report of a name that is not wanted, or say that it drains while requests still use it."""
        if name in self._wanted:
            return
        draining = [item for item in self._actual.loaded if item.name == name]
        if not draining:
            self._states.drop(name)
            return
        version = max(draining, key=lambda item: item.engine_name)
        message = "removed from the Workspace; requests that began before still use it"
        self._states.enter(
            AdapterReport(
                name=name,
                digest=version.digest,
                strength=version.strength,
                state=str(AdapterState.DRAINING),
                message=message,
            )
        )

    def _progress(self, item: Wanted, version: Version, state: AdapterState) -> None:
        self._states.enter(
            AdapterReport(
                name=item.name,
                image=item.image,
                digest=version.digest,
                strength=version.strength,
                state=str(state),
            )
        )

    def _ready(self, item: Wanted, version: Version, note: str, seconds: float) -> None:
        self._states.enter(
            AdapterReport(
                name=item.name,
                image=item.image,
                digest=version.digest,
                strength=version.strength,
                state=str(AdapterState.READY),
                message=note,
                load_seconds=round(seconds, 3),
            )
        )

    def _failed(self, item: Wanted, reason: str, message: str) -> None:
        served = self._actual.served.get(item.name)
        self._states.fail(item.name, item.image, str(reason), message, served)
        _logger.warning("adapter not served", extra={"adapter": item.name, "reason": str(reason), "error": message})

    def _settle(self, name: str | None) -> None:
        if self._unsettled is None:
            return
        self._unsettled.discard(name or "")
        if not self._unsettled:
            self.settled.set()
