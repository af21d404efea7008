"""The engine's adapters: one change at a time, each read back, none removed while something uses it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any, Final

from kubecore.clock import Clock
from model_server import vllm_compat
from model_server.adapters.version import Version
from model_server.lifecycle import Lifecycle
from model_server.vllm_compat import EngineClient

CALL_SECONDS: Final = 120.0
"""A load of gigabytes from a slow disk; the engine answers others meanwhile only between its steps."""
PATIENCE_SECONDS: Final = 10.0
"""How long a client may leave a piece of its answer unread and still hold an adapter that the engine is done with."""
_SETTLE_SECONDS: Final = 0.02
_logger = logging.getLogger(__name__)


class EngineRefusedError(Exception):
    """The engine did not take the adapter, in its own words."""


class EngineAdapters:
    """Loads, publishes and removes versions."""

    def __init__(
        self,
        engine: EngineClient,
        models: Any,
        lifecycle: Lifecycle,
        clock: Clock,
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._engine = engine
        self._models = models
        self._lifecycle = lifecycle
        self._clock = clock
        self._patience = patience
        self._changing = asyncio.Lock()
        self._requests: dict[Version, Any] = {}
        self._strays: dict[int, Version] = {}
        """Loads that failed, by id, until the engine is known not to hold them: they take a place that another one needs."""
        self._open: set[int] = set()
        """Ids of published loads, until they are removed. The engine would end on a sequence whose adapter's folder is gone."""
        vllm_compat.guard_sequences(engine, self._open)

    async def load(self, version: Version, folder: Path) -> None:
        """Put a version into the engine. Raises EngineRefusedError; what was served before stays."""
        # A fresh id each time: the engine would take a known one for loaded, whatever its folder holds now.
        identity = self._models.lora_id_counter.inc(1)
        parent = self._models.base_model_paths[0].name
        request = vllm_compat.lora_request(version.engine_name, identity, str(folder), parent)
        async with self._changing:
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    await self._drop_strays()
                    self._strays[identity] = version
                    await self._engine.add_lora(request)
                    loaded = identity in await self._engine.list_loras()
                    del self._strays[identity]
            except TimeoutError as error:
                raise EngineRefusedError(f"the engine did not answer within {CALL_SECONDS:g} s") from error
            except Exception as error:
                await self._try_to_drop_strays()
                # vLLM wraps whatever the worker raised, in classes that change between releases
                raise EngineRefusedError(" ".join(str(error).split())[:600]) from error
        if not loaded:
            raise EngineRefusedError("the engine accepted the adapter, but does not list it")
        self._requests[version] = request

    def may_hold(self, version: Version) -> bool:
        """Whether the engine may hold, and so read again, a version whose load failed."""
        return version in self._strays.values()

    async def _drop_strays(self) -> None:
        for identity in sorted(self._strays):
            await self._engine.remove_lora(identity)
        held = await self._engine.list_loras() if self._strays else set()
        self._strays = {identity: version for identity, version in self._strays.items() if identity in held}

    async def _try_to_drop_strays(self) -> None:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self._drop_strays()
        except Exception as error:  # noqa: BLE001 - the next load tries it again
            _logger.warning("a failed load is not cleared away yet", extra={"error": str(error)})

    def publish(self, version: Version, root: str) -> None:
        """Serve the version under its public name; requests that are in flight keep the one they have."""
        request = self._requests[version]
        self._open.add(request.lora_int_id)
        self._models.publish(version, request, root)

    def withdraw(self, name: str) -> None:
        """Stop serving under a name."""
        self._models.withdraw(name)

    async def unused(self, version: Version) -> None:
        """Wait until no sequence in the engine uses the version, and no HTTP request may still bring one.

        A client who does not read keeps its request open for as long as it likes; what it has still to read is produced
        and lies in this process. So a request whose answer waited for its client all through `patience` counts no more.
        """
        name = version.engine_name
        waiting = self._lifecycle.waiting_for_client(name)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await self._lifecycle.unused(name)
            # A client who went away leaves a sequence for some steps. vLLM has no event for its end.
            while vllm_compat.unfinished_by_adapter(self._engine, name):
                await self._clock.sleep(_SETTLE_SECONDS)
            before, waiting = waiting, self._lifecycle.waiting_for_client(name)
            stalled = sum(1 for flight, piece in waiting.items() if before.get(flight) is piece)
            if stalled == self._lifecycle.using(name):
                break
        if stalled:
            _logger.info("clients still read from an adapter that goes", extra={"adapter": name, "clients": stalled})

    async def remove(self, version: Version) -> bool:
        """Remove a version and confirm that it is gone. False: the engine still lists it, its folder must stay.

        Call it in the same step of the event loop in which `unused` returned: from here on no new sequence may use the
        version, unless it stays and is published again.
        """
        request = self._requests[version]
        self._open.discard(request.lora_int_id)
        async with self._changing:
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    await self._engine.remove_lora(request.lora_int_id)
                    left = request.lora_int_id not in await self._engine.list_loras()
            except Exception as error:  # noqa: BLE001 - reported; the version simply stays
                _logger.warning("adapter not removed", extra={"adapter": version.engine_name, "error": str(error)})
                return False
        if left:
            del self._requests[version]
            self._models.forget(version)
        return left
