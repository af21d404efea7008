"""The provisioner as a process of its own that a test lets die, and what it said it changed until then. Not a test by itself."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from provisioner_stage import Stage

from kaito_local.pytest_plugin import ApiServer

SCRIPT = Path(__file__).with_name("killable.py")
FACTOR = 10.0
"""How much faster the process's clock runs: what it puts off is written within the steps of these tests all the same."""


@asynccontextmanager
async def process(
    s: Stage, apiserver: ApiServer, kill_after: int, log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run it until the block ends; it dies after that many changes, never with 0."""
    azure = s.settings.azure
    flags = [
        f"--subscription-id={azure.subscription_id}",
        f"--resource-group={azure.resource_group}",
        f"--cluster-name={azure.cluster_name}",
        f"--tenant-id={azure.tenant_id}",
        "--client-id=client",
        f"--federated-token-file={azure.federated_token_file}",
        f"--endpoint={azure.endpoint}",
        f"--authority={azure.authority}",
        f"--ca-file={azure.ca_file}",
        "--no-leader-elect",
        f"--list-active-seconds={0.1 * FACTOR}",
        f"--list-idle-seconds={0.3 * FACTOR}",
        "--health-port=0",
        "--metrics-port=0",
    ]
    limits = {"KILL_AFTER": str(kill_after), "CLOCK_FACTOR": str(FACTOR)}
    env = {**os.environ, "KUBECONFIG": str(apiserver.kubeconfig), **limits}
    with log.open("ab") as out:
        running = await asyncio.create_subprocess_exec(
            sys.executable, str(SCRIPT), *flags, env=env, stdout=out, stderr=out
        )
        try:
            yield running
        finally:
            if running.returncode is None:
                running.terminate()
            await running.wait()


def changes(log: Path) -> list[str]:
    """Every change that is in the log: the points at which the next process can be killed."""
    return [line for line in log.read_text().splitlines() if line.startswith("change ")]
