"""`kaito-local claims`: the stand-in for gpu-provisioner, in the foreground."""

import argparse
import asyncio
import signal

from kaito_api.labels import WORKSPACE
from kaito_local.claims import CLAIM_APIS, ClaimStandIn
from kaito_local.cluster import Cluster
from kaito_local.errors import LocalError
from kaito_local.nodes.backends import KubeletNodes
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.logging import setup_logging
from kubecore.transport import Transport


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands of this module."""
    parser = subparsers.add_parser("claims", help="serve NodeClaims or Machines with nodes of the local cluster")
    parser.add_argument("--claim-api", choices=sorted(CLAIM_APIS), default="nodeclaim")
    parser.add_argument("--selector", default=WORKSPACE, help="the label that the claims to serve carry")
    parser.set_defaults(command=serve)


async def serve(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    cluster = Cluster()
    if not cluster.kubeconfig.exists():
        raise LocalError("there is no local cluster: `make cluster` starts one")
    setup_logging()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    config = load_config(str(cluster.kubeconfig))
    async with Transport(config, user_agent="kaito-local-claims") as transport, asyncio.TaskGroup() as group:
        stand_in = ClaimStandIn(
            Client(transport), KubeletNodes(cluster.nodes), CLAIM_APIS[args.claim_api], args.selector
        )
        serving = group.create_task(stand_in.run())
        await stop.wait()
        serving.cancel()
    return 0
