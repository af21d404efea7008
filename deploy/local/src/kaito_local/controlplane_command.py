"""`kaito-local control-plane up|down` and `kaito-local tools`."""

import argparse

from kaito_local.binaries import COMPONENTS, FOR_BENCHMARKS, ensure
from kaito_local.controlplane import ControlPlane
from kaito_local.locations import state_root
from kaito_local.progress import phase


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands of this module."""
    parser = subparsers.add_parser("control-plane", help="etcd and kube-apiserver with the CRDs, and nothing else")
    parser.add_argument("action", choices=("up", "down"))
    parser.set_defaults(command=control_plane)
    tools = subparsers.add_parser("tools", help="find or build the Kubernetes programs")
    tools.add_argument("names", nargs="*", choices=[[], *COMPONENTS], default=[])
    tools.set_defaults(command=build_tools)


async def control_plane(args: argparse.Namespace) -> int:
    """Starts or ends the control plane; the last line printed is the KUBECONFIG path."""
    plane = ControlPlane(state_root() / "control-plane")
    if args.action == "down":
        await plane.down()
        return 0
    with phase("control plane (etcd, kube-apiserver, CRDs)"):
        await plane.up()
    print(plane.kubeconfig)
    return 0


async def build_tools(args: argparse.Namespace) -> int:
    """Makes sure that every program is there, and prints where."""
    needed = (name for name in COMPONENTS if name not in FOR_BENCHMARKS)
    for name, path in (await ensure(args.names or needed)).items():
        print(f"{name:<24} {path}")
    return 0
