"""The command itself: fetch, check, report."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Final

import kaito_oci
from kaito_api.conditions import Reason
from kaito_api.report import Progress
from kubecore.clock import SystemClock
from kubecore.logging import setup_logging
from model_server import cluster, weights
from model_server.cluster import Cluster
from model_server.exits import ExitCode, FatalError
from model_server.fetch import adapters, credentials, hub, oci
from model_server.fetch.source import HubSource, parse
from model_server.options import FetchOptions
from model_server.registries import registry_settings
from model_server.reporter import Reporter

CONTAINER: Final = "weights"
DATA_CONTAINER: Final = "data"
LAST_WORD_SECONDS: Final = 5.0
_TERMINATED: Final = 128 + signal.SIGTERM
_logger = logging.getLogger(__name__)


def run(options: FetchOptions, termination_log: Path) -> int:
    """Fetch; return the exit code."""
    setup_logging()
    with asyncio.Runner() as runner:
        code = runner.run(_run(options, termination_log))
        if code == _TERMINATED:
            # The last word is said. The hub's library cannot be called off: its threads would go on to the end of the
            # download, or until kubelet kills them. What they have written so far is continued by the next pod.
            logging.shutdown()
            os._exit(code)
    return code


async def _run(options: FetchOptions, termination_log: Path) -> int:
    async with cluster.connect(options.workspace) as connection:
        reporter = Reporter(
            clock=SystemClock(),
            annotate=connection.annotator(DATA_CONTAINER if options.data else CONTAINER) if connection else None,
            termination_log=termination_log,
        )
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(reporter.run())
            fetching = group.create_task(_fetch(options, connection, reporter))
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, fetching.cancel)
            await asyncio.wait((fetching,))
            writing.cancel()
        code = _TERMINATED if fetching.cancelled() else int(fetching.result())
        await reporter.last_word(LAST_WORD_SECONDS)
        return code


async def _fetch(options: FetchOptions, connection: Cluster | None, reporter: Reporter) -> ExitCode:
    reporter.state("Pulling", message=options.source)
    try:
        await _fill(options, connection, reporter)
        if options.data:
            reporter.state("Loading", message="the data set is in place")
            return ExitCode.OK
        facts = await asyncio.to_thread(weights.inspect, options.to)
        if connection is not None and options.max_rank:
            reporter.adapters(await adapters.look(options, connection.client))
    except FatalError as error:
        _logger.critical("cannot fetch", extra={"reason": error.reason, "error": str(error)})
        reporter.state("Failed", reason=error.reason, message=str(error))
        return error.code
    except Exception as error:
        _logger.exception("failed unexpectedly")
        reporter.state(
            "Failed", reason=Reason.ENGINE_FAILED, message=f"the fetch failed: {type(error).__name__}: {error}"
        )
        return ExitCode.ENGINE_FAILED
    _logger.info("fetched", extra={"bytes": facts.size_bytes, "architecture": facts.architecture})
    reporter.state("Loading", message=f"{facts.size_bytes >> 20} MiB of {facts.architecture} weights are in place")
    return ExitCode.OK


async def _fill(options: FetchOptions, connection: Cluster | None, reporter: Reporter) -> None:
    loop = asyncio.get_running_loop()

    def progress(done: int, total: int) -> None:
        reporter.progress(Progress(phase="data" if options.data else "weights", done=done, total=total, unit="bytes"))

    source = parse(options.source)
    if isinstance(source, HubSource):

        def from_thread(done: int, total: int) -> None:
            loop.call_soon_threadsafe(progress, done, total)

        await asyncio.to_thread(hub.fetch, source, options.to, from_thread)
        return
    digest = await oci.fetch(
        source,
        options.to,
        auth=await _credentials(options, connection, reporter),
        registries=registry_settings(options),
        progress=progress,
    )
    _logger.info("pulled", extra={"digest": digest})


async def _credentials(
    options: FetchOptions, connection: Cluster | None, reporter: Reporter
) -> kaito_oci.CredentialSource:
    client = connection.client if connection else None
    namespace = options.workspace.namespace if options.workspace else ""
    return await credentials.read(client, namespace, options.pull_secrets, clock=SystemClock(), reporter=reporter)
