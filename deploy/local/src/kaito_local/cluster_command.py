"""`kaito-local cluster up|down` and `kaito-local node start|stop|list|import`."""

import argparse
from pathlib import Path

from kaito_local.cluster import Cluster
from kaito_local.nodes.slot import NodeSpec
from kaito_local.progress import phase


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands of this module."""
    parser = subparsers.add_parser("cluster", help="the full local cluster: control plane, controllers, a node, DNS")
    parser.add_argument("action", choices=("up", "down"))
    parser.set_defaults(command=cluster)
    node = subparsers.add_parser("node", help="further nodes of the local cluster, a real kubelet each")
    actions = node.add_subparsers(required=True, metavar="ACTION")
    start = actions.add_parser("start", help="start a node and wait until it is Ready")
    start.add_argument("name")
    start.add_argument("--pool", default="byo")
    start.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    start.add_argument("--taint", action="append", default=[], metavar="KEY=VALUE:EFFECT")
    start.add_argument("--provider-id", default="")
    start.add_argument("--instance-type", default="")
    start.add_argument("--gpus", type=int, default=0)
    start.set_defaults(command=start_node)
    stop = actions.add_parser("stop", help="drain a node, end it and delete its Node object")
    stop.add_argument("name")
    stop.set_defaults(command=stop_node)
    actions.add_parser("list", help="the nodes that run").set_defaults(command=list_nodes)
    images = actions.add_parser("import", help="unpack an image archive (tar) on the first pool node's place")
    images.add_argument("archive", type=Path)
    images.set_defaults(command=import_image)


async def cluster(args: argparse.Namespace) -> int:
    """Brings the cluster up or down; the last line printed is the KUBECONFIG path."""
    local = Cluster()
    if args.action == "down":
        with phase("cluster down"):
            await local.down()
        return 0
    await local.up()
    print(local.kubeconfig)
    return 0


async def start_node(args: argparse.Namespace) -> int:
    """Starts one node."""
    labels = dict(label.split("=", 1) for label in args.label)
    spec = NodeSpec(
        name=args.name,
        pool=args.pool,
        labels=labels,
        taints=tuple(args.taint),
        provider_id=args.provider_id,
        gpus=args.gpus,
        instance_type=args.instance_type,
    )
    with phase(f"node {args.name}"):
        await Cluster().nodes.start(spec)
    return 0


async def stop_node(args: argparse.Namespace) -> int:
    """Stops one node."""
    with phase(f"node {args.name} stopped"):
        await Cluster().nodes.stop(args.name)
    return 0


async def list_nodes(_: argparse.Namespace) -> int:
    """Prints the name, the pool and the slot of every node."""
    for name, slot in Cluster().nodes.nodes().items():
        node = slot.node()
        print(f"{name:<48} {node.pool if node else '':<16} slot {slot.number}")
    return 0


async def import_image(args: argparse.Namespace) -> int:
    """Imports an image archive."""
    for name in await Cluster().nodes.import_image(args.archive):
        print(name)
    return 0
