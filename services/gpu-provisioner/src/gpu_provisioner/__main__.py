"""Starts the gpu-provisioner: `gpu-provisioner --help` shows every setting."""

from __future__ import annotations

import gc
import logging
import os
import sys

import uvloop

from gpu_provisioner.cloud.azure import connect
from gpu_provisioner.settings import Settings, parse
from gpu_provisioner.wiring import Provisioner, served_kinds
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.errors import ConfigError, LeaderLost
from kubecore.logging import setup_logging
from kubecore.transport import Transport

log = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Runs until SIGTERM. Raises LeaderLost and ConfigError."""
    transport = Transport(
        load_config(settings.kubeconfig or None), user_agent="gpu-provisioner", field_manager="gpu-provisioner"
    )
    async with transport, connect(settings.azure) as cloud:
        client = Client(transport)
        provisioner = Provisioner(client=client, cloud=cloud, kinds=await served_kinds(client), settings=settings)
        _calm_collector()
        await provisioner.manager.run()


def _calm_collector() -> None:
    """Keeps garbage collection out of bursts of work.

    What the start has made, 80 000 objects of the SDK above all, stays for good: looking through it takes 40 ms each time. And
    the objects of a hundred claims in work are no garbage yet.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


def main() -> None:
    """Entry point. Exit code 1: the lease was lost or there is no usable configuration; the message says which."""
    settings = parse(sys.argv[1:], os.environ)
    setup_logging(settings.log_level)
    logging.getLogger("azure").setLevel(logging.WARNING)  # the SDK logs every request with its headers at info
    try:
        uvloop.run(run(settings))
    except (LeaderLost, ConfigError) as error:
        log.error("stopped", extra={"reason": str(error)})  # noqa: TRY400 - expected, no trace
        sys.exit(1)


if __name__ == "__main__":
    main()
