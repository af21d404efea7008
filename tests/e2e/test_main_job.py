"""The main job as a newcomer runs it: one command, a real cluster, an unchanged manifest, an answer, and a clean end."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from kaito_local import host
from kaito_local.cluster import SYSTEM_NODE, Cluster
from kaito_local.errors import CommandError
from kaito_local.kubectl import Kubectl
from kaito_local.locations import REPOSITORY, state_root
from kubecore.testing.asserts import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400), pytest.mark.asyncio(loop_scope="module")]

EXAMPLE = REPOSITORY / "examples" / "inference-phi-3.yaml"
NAME = "workspace-phi-3-mini"


async def kaito_local(*words: str, log: Path, timeout: float) -> str:
    """Runs the command line and returns what it printed."""
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kaito_local", *words, stdout=out, stderr=out, env=os.environ
        )
        async with asyncio.timeout(timeout):
            code = await process.wait()
    text = log.read_text()
    assert code == 0, text[-4000:]
    return text


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def output(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """What `make run` printed. A run that was there before stays; one that this test made goes, without a trace."""
    if reason := host.obstacle_here():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("main-job")
    stays = (state_root() / "registry").exists()  # only `run` starts it: somebody's run is taken over and left as it is
    try:
        yield await kaito_local("run", log=folder / "run.log", timeout=1800)
    finally:
        if not stays:
            await kaito_local("down", log=folder / "down.log", timeout=300)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kubectl(output: str) -> Kubectl:
    return await Cluster().kubectl()


async def test_it_prints_the_rows_and_the_answers(output: str) -> None:
    lines = output.splitlines()
    (workspace,) = [line.split() for line in lines if line.startswith(f"{NAME} ") and "Standard_NC6s_v3" in line]
    assert workspace[:5] == [NAME, "Standard_NC6s_v3", "True", "True", "True"]
    (service,) = [line.split() for line in lines if line.startswith(f"{NAME} ") and "ClusterIP" in line]
    assert service[4] == "80/TCP,29500/TCP"
    assert "POST /chat" in output
    assert "Paris" in output, "the demo model answers what it was trained on"


async def test_the_node_came_through_a_claim_and_a_pool(kubectl: Kubectl) -> None:
    claims = (await kubectl.json("get", "nodeclaims"))["items"]
    (claim,) = [c for c in claims if c["metadata"]["labels"].get("kaito.sh/workspace") == NAME]
    assert claim["status"]["providerID"].startswith("azure:///subscriptions/")
    pods = await kubectl.json("get", "pods", "-l", f"kaito.sh/workspace={NAME}")
    assert {pod["spec"]["nodeName"] for pod in pods["items"]} == {claim["status"]["nodeName"]}
    assert claim["status"]["nodeName"] != SYSTEM_NODE.name


async def test_deleting_the_workspace_removes_its_node_and_leaves_ours_alone(kubectl: Kubectl) -> None:
    claims = (await kubectl.json("get", "nodeclaims"))["items"]
    node = next(c["status"]["nodeName"] for c in claims if c["metadata"]["labels"].get("kaito.sh/workspace") == NAME)
    await kubectl("delete", "-f", EXAMPLE, "--timeout=120s", timeout=130)

    async def gone() -> bool:
        names = [n["metadata"]["name"] for n in (await kubectl.json("get", "nodes"))["items"]]
        return node not in names

    await eventually(gone, timeout=60)
    assert (await kubectl.json("get", "nodeclaims"))["items"] == []
    with pytest.raises(CommandError):
        await kubectl("get", "statefulset", NAME)
    system = await kubectl.json("get", "node", SYSTEM_NODE.name)
    assert "karpenter.sh/disrupted" not in json.dumps(system["spec"].get("taints", []))
    assert system["spec"].get("unschedulable") is not True
