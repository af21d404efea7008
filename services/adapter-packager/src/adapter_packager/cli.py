"""Runs one command: wires its parts, turns errors into words and exit codes, ends well on SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from adapter_packager import folder, publish, remote, signing
from adapter_packager.access import Access
from adapter_packager.arguments import parse
from adapter_packager.exits import UNEXPECTED_REASON, ExitCode, code_of, reason_of, words_of
from adapter_packager.holding import TROUBLES
from adapter_packager.metrics import Figures, serving
from adapter_packager.mounted_secret import MountedSecret
from adapter_packager.pod_report import PodReport
from adapter_packager.terminal import Terminal
from kaito_api.base_shapes import Base
from kaito_oci import Reference, RegistrySettings
from kubecore.clock import SystemClock
from kubecore.logging import setup_logging
from kubecore.pod_report import own_pod

_HOLD_IN_POD = 600.0
_logger = logging.getLogger(__name__)
_CONTAINERS = {"check": "adapter-packager-check", "push": "adapter-packager"}


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line to its exit code."""
    options = parse(argv)
    setup_logging()
    try:
        return asyncio.run(main(options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("interrupted; what was uploaded stays in the registry and is not sent again\n")
        return ExitCode.CANCELLED


async def main(options: argparse.Namespace) -> int:
    """Run a parsed command line to its exit code. SIGTERM cancels it."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        async with _session(options) as (access, report):
            await _command(options, access, report)
    except TROUBLES as error:
        sys.stderr.write(f"{reason_of(error)}: {error}\n")
        return code_of(error)
    except Exception as error:  # the report has the words as well
        _logger.exception("unexpected error")
        sys.stderr.write(f"{UNEXPECTED_REASON}: {words_of(error)}\n")
        return ExitCode.UNEXPECTED
    return ExitCode.OK


@asynccontextmanager
async def _session(options: argparse.Namespace) -> AsyncIterator[tuple[Access, PodReport]]:
    """Access to the registry and the report, in a Pod or at a workstation. The last word is said whatever happens."""
    settings = RegistrySettings(
        plain_http_hosts=frozenset(options.plain_http),
        trusted_realms=frozenset(options.trust_realm),
        ca_bundle=options.ca_bundle,
    )
    container = _CONTAINERS.get(options.command, "")
    pod = None
    if container:
        from adapter_packager.cluster import connect

        pod = own_pod()
    if pod is None:
        yield Access(settings=settings, docker_config=options.docker_config), PodReport(SystemClock(), None, None)
        return
    async with connect(pod, options.container or container) as cluster:
        folder_given = options.push_secret_folder
        secrets = MountedSecret(folder_given) if folder_given is not None else cluster
        access = Access(settings=settings, secrets=secrets, secret_name=options.push_secret)
        report = PodReport(SystemClock(), cluster.annotate, options.termination_log)
        async with report.running():
            yield access, report


async def _command(options: argparse.Namespace, access: Access, report: PodReport) -> None:
    reference = Reference.parse(options.reference)
    if options.command == "pull":
        result = await remote.fetch(reference, options.folder, access, Terminal("pulled"))
        _say(f"{reference.pinned(result.digest)} -> {options.folder} ({result.bytes} bytes)")
    elif options.command == "inspect":
        found = await remote.inspect(reference, access, base=await _base(options), max_rank=options.max_rank)
        _say(msgspec.json.format(msgspec.json.encode(found)).decode())
    elif options.command == "verify":
        if options.key is not None:
            reference = await signing.require_signature(reference, options.key, access)
        adapter = await remote.verify(
            reference, access, base=await _base(options), max_rank=options.max_rank, progress=Terminal("read")
        )
        _warn(adapter)
        facts = f"rank {adapter.verdict.rank}, {adapter.weights_bytes} bytes of weights"
        signed = f", signed by the key {options.key}" if options.key is not None else ""
        _say(f"{reference} is whole and can be served: {facts}{signed}")
    elif options.command == "check":
        hold = _hold(options, access)
        clock = SystemClock()
        await publish.check(reference, access, sign_key=options.sign_key, hold=hold, clock=clock, report=report)
        report.state("Done", message=f"{reference} may be pushed")
        _say(f"{reference} may be pushed")
    else:
        await _push(options, reference, access, report)


async def _push(options: argparse.Namespace, reference: Reference, access: Access, report: PodReport) -> None:
    clock = SystemClock()
    figures = Figures(clock)
    async with serving(options.metrics_port, figures):
        base = await _base(options)
        adapter = await asyncio.to_thread(
            folder.read, options.folder, base_model=options.base_model, base=base, max_rank=options.max_rank
        )
        _warn(adapter)
        result = await publish.publish(
            adapter,
            reference,
            access,
            layout=options.format,
            sign_key=options.sign_key,
            hold=_hold(options, access),
            clock=clock,
            report=report,
            figures=figures,
            progress=Terminal("pushed"),
        )
    _say(result.reference)


async def _base(options: argparse.Namespace) -> Base | None:
    if options.base_config is None:
        return None
    return await asyncio.to_thread(folder.read_base, options.base_config, getattr(options, "base_model", ""))


def _hold(options: argparse.Namespace, access: Access) -> float | None:
    """Seconds to hold on; None at a workstation, where somebody sees what is wrong and decides."""
    if options.hold is not None:
        return float(options.hold)
    return _HOLD_IN_POD if access.secrets is not None else None


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _warn(adapter: folder.Adapter) -> None:
    for warning in adapter.verdict.warnings:
        sys.stderr.write(f"warning: {warning}\n")
