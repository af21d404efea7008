"""What a node does with a hook's pod, for apiservers without nodes: its program runs here, under the pod's own ServiceAccount."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
RunPod = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def run_pod(tmp_path: Path) -> RunPod:
    """Returns a function that runs the program of a pod's only container as kubelet would: exit status and what it printed."""

    async def run_container(spec: dict[str, Any], *, url: str, ca: Path, token: str) -> tuple[int, str]:
        (container,) = spec["containers"]
        assert spec["automountServiceAccountToken"]
        folder = tmp_path / "mounted"
        folder.mkdir(exist_ok=True)
        (folder / "token").write_text(token)
        (folder / "ca.crt").write_bytes(ca.read_bytes())
        python, *words = container["command"]
        assert python == "python"
        arguments = [str(folder) if word == MOUNT else word for word in container["args"]]
        at = urlsplit(url)
        there = {"KUBERNETES_SERVICE_HOST": str(at.hostname), "KUBERNETES_SERVICE_PORT": str(at.port)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ | there,
        )
        async with asyncio.timeout(120):
            printed, _ = await process.communicate()
        return process.returncode or 0, printed.decode()

    return run_container
