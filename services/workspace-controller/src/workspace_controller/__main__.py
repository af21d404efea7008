"""`workspace-controller`: reads its settings, connects to the cluster and runs until it is told to stop."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

import uvloop
from prometheus_client import REGISTRY

from kubecore.client import Client
from kubecore.config import ClusterConfig, load_config
from kubecore.errors import ConfigError, LeaderLost
from kubecore.logging import setup_logging
from kubecore.transport import Transport
from workspace_controller.applier import MANAGER
from workspace_controller.catalog import Catalog
from workspace_controller.catalog_files import CatalogError, load_catalog
from workspace_controller.process_settings import ProcessSettings, process_arguments, process_settings
from workspace_controller.registry_ca_file import RegistryCaError
from workspace_controller.settings import Settings, planning_arguments, planning_settings
from workspace_controller.wiring import wire


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[Settings, ProcessSettings]:
    """Return all settings. Exits with a usage message for a flag that makes no sense."""
    parser = argparse.ArgumentParser(
        prog=MANAGER,
        description="Plans nodes and workloads for Workspaces (kaito.sh) and reports on them.",
    )
    process_arguments(parser, environment)
    planning_arguments(parser, environment)
    parsed = parser.parse_args(arguments)
    try:
        return planning_settings(parsed), process_settings(parsed)
    except ValueError as error:
        parser.error(str(error))


async def run(cluster: ClusterConfig, catalog: Catalog, settings: Settings, process: ProcessSettings) -> None:
    """Run the controller until SIGTERM."""
    async with Transport(cluster, user_agent=MANAGER, field_manager=MANAGER) as transport:
        wired = await wire(Client(transport), catalog, settings, process, registry=REGISTRY)
        await wired.manager.run()


def main() -> None:
    """Entry point of the console script. Exit code 2 for bad flags, 1 for everything else."""
    settings, process = parse(sys.argv[1:], os.environ)
    setup_logging(process.log_level)
    try:
        cluster = load_config(process.kubeconfig, process.context)
        catalog = load_catalog(process.catalog).mirrored(settings.image_registry)
    except (ConfigError, CatalogError) as error:
        sys.exit(f"{MANAGER}: {error}")
    try:
        uvloop.run(run(cluster, catalog, settings, process))
    except (LeaderLost, RegistryCaError) as error:
        sys.exit(f"{MANAGER}: {error}")


if __name__ == "__main__":
    main()
