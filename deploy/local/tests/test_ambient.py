"""The user's own kubeconfig: whatever is run locally neither writes to it nor calls its cluster, unless it is named."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from kaito_local.ambient import untouched_kubeconfig
from kaito_local.binaries import ensure
from kaito_local.kubectl import Kubectl
from kaito_local.locations import cache_root
from kaito_local.pytest_plugin import ApiServer
from kaito_local.run.chart import NAMESPACE, RELEASE, helm, local_values, release

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

COMMANDS = [
    (("tools", "kubectl"), 0, "kubectl"),
    (("control-plane", "up"), 0, "admin.kubeconfig"),
    (("control-plane", "up"), 0, "admin.kubeconfig"),
    (("control-plane", "down"), 0, ""),
    (("arm",), 1, "there is no local cluster"),
    (("run", "--cluster", "missing", "--registry", "127.0.0.1:1/x"), 1, "has no context 'missing'; it has: own"),
    (("run", "--cluster", "own"), 2, "an existing cluster needs both names"),
    (("down",), 0, "nothing of the local cluster is left"),
]
"""Each command of a session with a control plane, its exit status and its words."""


async def test_no_command_touches_the_ambient_kubeconfig(tmp_path: Path) -> None:
    own = tmp_path / "home" / ".kube"
    own.mkdir(parents=True)
    settings = {"HOME": str(own.parent), "KAITO_CACHE": str(cache_root()), "KAITO_STATE": str(tmp_path / "state")}
    with untouched_kubeconfig(own) as config:
        env = {**settings, "KUBECONFIG": str(config), "KUBECACHEDIR": str(tmp_path / "kubectl")}
        for words, status, says in COMMANDS:
            assert says in await said(*words, env=env, status=status), words


async def said(*words: str, env: dict[str, str], status: int) -> str:
    """Runs a command, and returns what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kaito_local", *words),
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    assert process.returncode == status, out.decode()
    return out.decode()


async def test_a_release_is_made_again_only_where_something_differs(
    apiserver: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other values, or an object that somebody changed by hand; the user's own cluster is not looked at for it."""
    services = ("workspace-controller", "gpu-provisioner", "model-server", "tuner", "adapter-packager")
    values = local_values({name: f"kaito.local/{name}:1" for name in services}, "127.0.0.1:5050", "nodeclaim")
    program, kubectl = (
        await helm(apiserver.kubeconfig),
        Kubectl((await ensure(("kubectl",)))["kubectl"], apiserver.kubeconfig),
    )
    deployment = ("deployment/workspace-controller", "-n", NAMESPACE)

    async def revisions() -> list[str]:
        history = json.loads(await program("history", RELEASE, "--namespace", NAMESPACE, "--output", "json"))
        return [each["status"] for each in history]

    async def replicas() -> int:
        return int((await kubectl.json("get", *deployment))["spec"]["replicas"])

    with untouched_kubeconfig(tmp_path) as config:
        monkeypatch.setenv("KUBECONFIG", str(config))
        try:
            for _ in range(2):
                await release(program, kubectl, values)
                assert await revisions() == ["deployed"]
            wanted = await replicas()
            await kubectl("scale", *deployment, f"--replicas={wanted + 1}")
            await release(program, kubectl, values)
            assert (len(await revisions()), await replicas()) == (2, wanted)
            values["workspace-controller"]["settings"]["tuning"]["dataHosts"] = ["10.200.0.1:5060"]
            await release(program, kubectl, values)
            assert len(await revisions()) == 3
        finally:
            await program("uninstall", RELEASE, "--namespace", NAMESPACE, "--no-hooks")
