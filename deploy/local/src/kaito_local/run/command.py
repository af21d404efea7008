"""The command line of the main job."""

import argparse

PROVISIONERS = ("gpu-provisioner", "stand-in")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands of this package."""
    parser = subparsers.add_parser("run", help="the main job: a cluster, the operator, a model, a printed answer")
    parser.add_argument("--cluster", metavar="CONTEXT", help="use this cluster of your kubeconfig and make none")
    parser.add_argument(
        "--registry", metavar="REF", help="with --cluster: where its nodes and pods pull from; http://... without TLS"
    )
    parser.add_argument("--claim-api", choices=("nodeclaim", "machine"), default="nodeclaim")
    parser.add_argument("--provisioner", choices=PROVISIONERS, default=PROVISIONERS[0], help="who answers the claims")
    parser.add_argument("--timeout", type=float, default=900, help="seconds to wait for the model (default: 900)")
    parser.add_argument("--only-serving", action="store_true", help="the first act alone: no tuning")
    parser.set_defaults(command=run)
    parser = subparsers.add_parser("down", help="removes everything that run, cluster and control-plane started")
    parser.set_defaults(command=run_down)


async def run(args: argparse.Namespace) -> int:
    """Runs the main job and leaves it running."""
    from kaito_local.run.existing import run_existing
    from kaito_local.run.local import Options, run_local

    if bool(args.cluster) != bool(args.registry):
        print("an existing cluster needs both names: CLUSTER=<context> REGISTRY=<ref>")
        return 2
    options = Options(
        claim_api=args.claim_api,
        timeout=args.timeout,
        provisioner=args.provisioner,
        only_serving=args.only_serving,
    )
    if args.cluster:
        await run_existing(args.cluster, args.registry, options)
    else:
        await run_local(options)
    return 0


async def run_down(args: argparse.Namespace) -> int:
    """Removes everything; nothing there is not an error."""
    from kaito_local.run.local import down

    await down()
    print("nothing of the local cluster is left: no process, no mount, no network interface")
    return 0
