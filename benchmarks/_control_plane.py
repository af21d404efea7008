"""An etcd and a kube-apiserver for one benchmark."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from kaito_local.controlplane import ControlPlane


async def own_control_plane(stack: AsyncExitStack, folder: Path) -> Path:
    """Start etcd and kube-apiserver for as long as the stack lives."""
    plane = ControlPlane(folder)
    stack.push_async_callback(plane.down)
    await plane.up()
    return plane.kubeconfig
