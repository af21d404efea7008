"""`model-server serve`: checks, starts the engine, serves, drains, and says at each step how it fares.

Shutdown order: readiness off and no new requests; requests in flight end (or the deadline passes); the HTTP server
closes; adapters stop being managed; the engine's processes end; the last report is written.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from kaito_api.conditions import Reason
from kubecore.clock import SystemClock
from kubecore.logging import setup_logging
from model_server import app as application
from model_server import cluster, server, vllm_compat
from model_server.adapters.acquire import Acquirer
from model_server.adapters.engine_adapters import EngineAdapters
from model_server.adapters.manager import AdapterManager
from model_server.adapters.preflight import read_base
from model_server.adapters.served import models_class
from model_server.adapters.states import AdapterStates
from model_server.adapters.store import AdapterStore
from model_server.api_keys import ApiKeys
from model_server.cluster import Cluster
from model_server.engine import EngineLauncher, describe
from model_server.exits import ExitCode, FatalError
from model_server.lifecycle import Lifecycle, Phase
from model_server.metrics import Metrics
from model_server.options import ServeOptions
from model_server.registries import registry_settings
from model_server.reporter import Reporter
from model_server.startup import StartupGuard
from model_server.vllm_compat import EngineClient

CONTAINER: Final = "model-server"
LAST_WORD_SECONDS: Final = 5.0
DEATH_SECONDS: Final = 15.0
"""How long a dead engine's processes may take to end."""
KEYS_MISSING: Final = (
    "every request is refused: the Secret with the API keys holds none; add a value to it, no restart is needed"
)
_logger = logging.getLogger(__name__)


def run(options: ServeOptions, termination_log: Path) -> int:
    """Serve until SIGTERM or failure; return the exit code."""
    import uvloop

    setup_logging()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(options, termination_log))


async def _serve(options: ServeOptions, termination_log: Path) -> int:
    async with cluster.connect(options.workspace) as connection:
        reporter = Reporter(
            clock=SystemClock(),
            annotate=connection.annotator(CONTAINER) if connection else None,
            termination_log=termination_log,
        )
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(reporter.run())
            try:
                await Server(options, reporter, connection).run()
                code = ExitCode.OK
            except FatalError as error:
                _logger.critical("cannot serve", extra={"reason": error.reason, "error": str(error)})
                reporter.state("Failed", reason=error.reason, message=str(error))
                code = error.code
            except Exception as error:
                # A bug of ours or of the engine's: the traceback goes to the log, the gist to the Workspace.
                _logger.exception("failed unexpectedly")
                gist = f"{type(error).__name__}: {error}"
                reporter.state("Failed", reason=Reason.ENGINE_FAILED, message=f"the server failed unexpectedly: {gist}")
                code = ExitCode.ENGINE_FAILED
            finally:
                writing.cancel()
        await reporter.last_word(LAST_WORD_SECONDS)
        return int(code)


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for everything that this run and its engine leave in files. A process of the engine may still write."""
    return tempfile.TemporaryDirectory(prefix="model-server-", ignore_cleanup_errors=True)


class Server:
    """One run of the server."""

    def __init__(self, options: ServeOptions, reporter: Reporter, connection: Cluster | None) -> None:
        self._options = options
        self._reporter = reporter
        self._connection = connection
        self._lifecycle = Lifecycle()

    async def run(self) -> None:
        """Serve until SIGTERM. Raises FatalError."""
        with scratch_folder() as scratch, ExitStack() as starting:
            guard = starting.enter_context(StartupGuard(Path(scratch)))
            launcher = EngineLauncher(self._options, Path(scratch))
            facts, config = await asyncio.to_thread(launcher.check_inputs)
            bound = server.bind(self._options.host, self._options.port)
            try:
                self._reporter.state("Loading", message=f"starting vLLM with {facts.size_bytes >> 20} MiB of weights")
                await self._reporter.flush()
                launcher.set_environment()
                namespace = launcher.plan(facts, config)
                async with launcher.run(namespace, config) as engine:
                    starting.close()
                    stop = self._watch_signals()
                    if guard.requested:
                        stop.set()
                    await self._serve_engine(launcher, engine, namespace, bound, stop)
            finally:
                bound.close()

    async def _serve_engine(
        self,
        launcher: EngineLauncher,
        engine: EngineClient,
        namespace: argparse.Namespace,
        bound: socket.socket,
        stop: asyncio.Event,
    ) -> None:
        # vLLM's libraries raise the root logger's level on their way up.
        logging.getLogger("model_server").setLevel(logging.INFO)
        vllm_compat.prepare_process()
        metrics = Metrics(vllm_compat.metrics_registry())
        metrics.ready.set_function(lambda: float(self._lifecycle.ready))
        states = AdapterStates(metrics, self._reporter.adapters)
        app, guarded = await application.build(
            engine,
            namespace,
            lifecycle=self._lifecycle,
            metrics=metrics,
            models_class=models_class(),
            rate_limit=self._options.rate_limit,
            keys=self._keys(),
            unserved=states.unserved,
        )
        http = server.build(app, guarded, namespace)
        adapters = self._adapters(engine, app.state.openai_serving_models, metrics, states)
        self._reporter.engine(describe(engine, launcher.device_name))
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(http.serve(sockets=[bound]))
            death = group.create_task(launcher.death(engine))
            stopping = group.create_task(stop.wait())
            managing = group.create_task(adapters.run())
            ready = group.create_task(self._announce(http, adapters))
            await asyncio.wait((serving, death, stopping), return_when=asyncio.FIRST_COMPLETED)
            if stopping.done() and not death.done():
                await self._drain(death)
            elif serving.done():
                # vLLM stops the HTTP server when a request finds the engine dead; the engine's processes end a little later.
                await asyncio.wait((death,), timeout=DEATH_SECONDS)
            http.stop()
            for task in (stopping, ready):
                task.cancel()
            await serving
            managing.cancel()
            fallen = death.result() if death.done() else None
            death.cancel()
        if fallen is not None:
            raise fallen
        if not stop.is_set():
            raise FatalError(ExitCode.ENGINE_FAILED, "the engine stopped answering while it served; its log says why")

    def _adapters(self, engine: EngineClient, models: Any, metrics: Metrics, states: AdapterStates) -> AdapterManager:
        options, clock = self._options, SystemClock()
        client = self._connection.client if self._connection else None
        lora = engine.vllm_config.lora_config
        adapter_store = AdapterStore(options.adapter_store)
        return AdapterManager(
            workspace=options.workspace,
            client=client,
            base_name=options.served_model_name,
            mounted=options.adapters_dir,
            adapter_store=adapter_store,
            acquirer=Acquirer(
                adapter_store=adapter_store,
                client=client,
                namespace=options.workspace.namespace if options.workspace else "",
                registries=registry_settings(options),
                base=read_base(options.model, options.served_model_name),
                max_rank=int(lora.max_lora_rank) if lora else 0,
                metrics=metrics,
            ),
            engine=EngineAdapters(engine, models, self._lifecycle, clock),
            states=states,
            metrics=metrics,
            capacity=int(lora.max_cpu_loras) if lora else 0,
        )

    def _keys(self) -> ApiKeys | None:
        """Return the API keys that clients need, if they need any; from now on readiness and report follow them."""
        folder = self._options.api_keys_dir
        if folder is None:
            return None
        keys = ApiKeys(folder, SystemClock())
        keys.refresh()
        keys.listen(self._on_keys)
        return keys

    def _on_keys(self, present: bool) -> None:
        self._lifecycle.keys_missing = not present
        if self._lifecycle.phase is Phase.READY and self._lifecycle.adapters_settled:
            self._say_whether_ready()

    def _say_whether_ready(self) -> None:
        if self._lifecycle.keys_missing:
            self._reporter.state("Failed", reason=Reason.API_KEYS_MISSING, message=KEYS_MISSING)
            _logger.warning("serves nobody", extra={"reason": Reason.API_KEYS_MISSING})
            return
        self._reporter.state("Ready")
        _logger.info("ready", extra={"port": self._options.port})

    async def _announce(self, http: server.HttpServer, adapters: AdapterManager) -> None:
        """Say Ready once the port answers and the adapters are settled."""
        await http.listening.wait()
        self._lifecycle.serve()
        await adapters.settled.wait()
        self._lifecycle.adapters_settled = True
        self._say_whether_ready()

    async def _drain(self, death: asyncio.Task[FatalError]) -> None:
        """Let the requests in flight end, but wait no longer than the grace period or the engine's life allow."""
        self._lifecycle.drain()
        self._reporter.state("Draining", message=f"{self._lifecycle.in_flight} requests in flight")
        _logger.info("draining", extra={"in_flight": self._lifecycle.in_flight})
        async with asyncio.TaskGroup() as group:
            idle = group.create_task(self._lifecycle.idle())
            await asyncio.wait((idle, death), timeout=self._options.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
        if self._lifecycle.in_flight:
            _logger.warning("requests cut at the deadline", extra={"in_flight": self._lifecycle.in_flight})
            self._lifecycle.cut()

    def _watch_signals(self) -> asyncio.Event:
        """From now on SIGTERM and SIGINT start the drain instead of ending the process on the spot."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        return stop
