"""An etcd and a kube-apiserver for one benchmark."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import yaml

from kaito_local.controlplane import ControlPlane

ACCOUNT = "benchmark"


async def own_control_plane(stack: AsyncExitStack, folder: Path) -> Path:
    """Start etcd and kube-apiserver for as long as the stack lives."""
    plane = ControlPlane(folder)
    stack.push_async_callback(plane.down)
    await plane.up()
    return plane.kubeconfig


async def account_kubeconfig(plane: ControlPlane) -> Path:
    """A kubeconfig with the token of a ServiceAccount, which is how pods are known to an apiserver.

    It remembers a token for seconds, while it verifies a client certificate with each request: a third of a millisecond.
    """
    kubectl = await plane.kubectl()
    await kubectl("create", "serviceaccount", ACCOUNT, "--namespace=default")
    subject = f"--serviceaccount=default:{ACCOUNT}"
    await kubectl("create", "clusterrolebinding", ACCOUNT, "--clusterrole=cluster-admin", subject)
    token = await kubectl("create", "token", ACCOUNT, "--namespace=default", "--duration=2h")
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token.strip()}
    path = plane.state_dir / "account.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return path
