"""The main job as a newcomer runs it: one command, a real cluster, unchanged manifests, answers, a tuned adapter, a clean end."""

import asyncio
import itertools
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio
import yaml

from kaito_api.meta import Key
from kaito_local import host
from kaito_local.ambient import untouched_kubeconfig
from kaito_local.cluster import SYSTEM_NODE, Cluster
from kaito_local.demo_data.rows import load_fact
from kaito_local.errors import CommandError
from kaito_local.images.store import template_root
from kaito_local.kubectl import Kubectl
from kaito_local.locations import REPOSITORY, cache_root, state_root
from kaito_local.processes import Process, ProcessTable, alive
from kaito_local.prometheus import BOARDS, Prometheus, Target, prometheus, queries
from kaito_local.run import learning, manifests
from kaito_local.run.ask import complete, model_name
from kaito_local.run.chart import CHART, NAMESPACE, RELEASE, helm
from kaito_local.run.second_act import ADAPTER, service_url
from kubecore.testing.asserts import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400), pytest.mark.asyncio(loop_scope="module")]

EXAMPLE = REPOSITORY / "examples" / "inference-phi-3.yaml"
NAME = "workspace-phi-3-mini"
TUNING = "workspace-tuning-phi-3"
SERVING = "workspace-phi-3-mini-adapter"
LORA = "tune-lora"
WRONG = "no-such-config"
SCRAPED = {"http", "metrics"}


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
    """What `make run` printed. A cluster that was there before stays; one that this test made goes, without a trace.

    Whatever runs in between leaves the user's own kubeconfig and its cluster alone.
    """
    if reason := host.obstacle_here():
        pytest.skip(reason)
    folder, own = tmp_path_factory.mktemp("main-job"), tmp_path_factory.mktemp("own")
    stays = (
        state_root() / "registry"
    ).exists()  # only `run` starts it: somebody's run is taken over and left, without its Workspaces
    with untouched_kubeconfig(own) as ambient, pytest.MonkeyPatch.context() as environment:
        environment.setenv("KUBECONFIG", str(ambient))
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


class Made(NamedTuple):
    """All that a run makes or starts and that the next one finds."""

    processes: dict[str, list[Process]]
    files: dict[str, int]
    """When each was written: image layers in the cache, what nodes start from, the blobs of the registries."""
    revisions: list[str]
    """Of the Helm release."""
    objects: dict[str, int]
    """Generations by kind, name and UID; restarts of pods."""


async def made(kubectl: Kubectl) -> Made:
    root, program = state_root(), await helm(Cluster().kubeconfig)
    tables = [*root.glob("*/processes.json"), *root.glob("cluster/control-plane/processes.json")]
    tables += root.glob("cluster/nodes/*/processes.json")
    kept = [cache_root() / "images" / name for name in ("blobs", "keys", "wheels")]
    files = [file for folder in kept for file in folder.rglob("*") if file.is_file()]
    files += root.glob("*registry/data/docker/registry/v2/blobs/sha256/*/*/data")
    history = await program("history", RELEASE, "--namespace", NAMESPACE, "--output", "json")
    kinds = "nodes,nodeclaims,workspaces,deployments,daemonsets,statefulsets,jobs,pods,customresourcedefinitions"
    found = (await kubectl.json("get", kinds, "--all-namespaces"))["items"]
    return Made(
        {str(table): ProcessTable(table.parent).all() for table in tables},
        {str(file): file.stat().st_mtime_ns for file in [*files, template_root() / "loaded"]},
        [each["revision"] for each in json.loads(history)],
        {f"{each['kind']} {each['metadata']['name']} {each['metadata']['uid']}": changes(each) for each in found},
    )


def changes(found: dict[str, Any]) -> int:
    if found["kind"] == "Pod":
        return sum(each["restartCount"] for each in found["status"].get("containerStatuses", []))
    return int(found["metadata"].get("generation", 0))


async def test_a_second_run_takes_over_what_is_there_and_makes_nothing_again(
    output: str, kubectl: Kubectl, tmp_path: Path
) -> None:
    """No layer, import, push, release, process, pod or change of what is wanted; the same answers."""
    before = await made(kubectl)
    again = await kaito_local("run", log=tmp_path / "again.log", timeout=600)
    after = await made(kubectl)
    assert after.processes == before.processes
    assert [each for each in itertools.chain(*after.processes.values()) if not alive(each)] == []
    assert after.files == before.files
    assert after.revisions == before.revisions
    # The pods of a tuning that is over go when their node has, whoever runs what.
    assert after.objects.items() <= before.objects.items()
    assert said(again) == said(output)


def said(output: str) -> list[str]:
    """What it printed that is the same whenever it is printed: the answers."""
    lines = [line.strip() for line in output.splitlines()]
    asked = [number for number, line in enumerate(lines) if line.startswith(("POST /chat", "OpenAI client,", "base:"))]
    return [re.sub(r"in \d+ pieces", "", line) for number in asked for line in lines[number : number + 2]]


async def test_the_node_came_through_a_claim_and_a_pool(kubectl: Kubectl) -> None:
    claims = (await kubectl.json("get", "nodeclaims"))["items"]
    (claim,) = [c for c in claims if c["metadata"]["labels"].get("kaito.sh/workspace") == NAME]
    assert claim["status"]["providerID"].startswith("azure:///subscriptions/")
    pods = await kubectl.json("get", "pods", "-l", f"kaito.sh/workspace={NAME}")
    assert {pod["spec"]["nodeName"] for pod in pods["items"]} == {claim["status"]["nodeName"]}
    assert claim["status"]["nodeName"] != SYSTEM_NODE.name


async def test_the_second_act_trains_pushes_and_answers_with_what_was_learnt(output: str) -> None:
    fact = load_fact()
    lines = [line.strip() for line in output.splitlines()]
    asked = lines.index(f"{fact.held_out} (this wording is in no row of the data)")
    before, after = lines[asked + 1], lines[asked + 2]
    assert before.startswith("base:")
    assert fact.answer not in before
    assert after == f"adapter: {fact.answer}"
    count = len(fact.unrelated)
    assert f"{count} of {count} unrelated questions: the adapter answers as the base does" in lines


async def test_the_adapter_is_where_the_status_says_and_its_node_is_given_back(kubectl: Kubectl) -> None:
    status = (await kubectl.json("get", "workspace", TUNING))["status"]
    assert status["state"] == "Succeeded"
    found = status["tuning"]["output"]
    assert found["image"].endswith(f"/adapters/rainbow@{found['digest']}")
    assert (await manifest_of(found["image"])).headers["Docker-Content-Digest"] == found["digest"]

    async def given_back() -> bool:
        claims = (await kubectl.json("get", "nodeclaims"))["items"]
        return TUNING not in {claim["metadata"]["labels"].get("kaito.sh/workspace") for claim in claims}

    await eventually(given_back, timeout=120)
    phases = {phase["name"] for phase in status["phases"] if "finishedAt" in phase}
    assert phases >= {"Nodes", "Weights", "Data", "Training", "Packaging"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def monitoring(
    kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Callable[[], Awaitable[Prometheus]]]:
    """Prometheus: each call of what this yields makes it scrape the cluster's pods as they are then."""
    async with prometheus(tmp_path_factory.mktemp("prometheus")) as server:

        async def looking() -> Prometheus:
            await server.scrape(targets((await kubectl.json("get", "pods", "--all-namespaces"))["items"]))
            return server

        yield looking


def targets(found: list[dict[str, Any]]) -> list[Target]:
    """The running pods that the chart's ServiceMonitor and PodMonitor select, with the labels that those give."""
    chosen = []
    for pod in found:
        metadata, labels = pod["metadata"], {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]}
        if workspace := metadata["labels"].get("kaito.sh/workspace"):
            labels["workspace"] = workspace
        elif metadata["labels"].get("app.kubernetes.io/part-of") != "kaito":
            continue
        containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
        ports = [each["containerPort"] for c in containers for each in c.get("ports", []) if each["name"] in SCRAPED]
        if pod["status"].get("podIP") and "deletionTimestamp" not in metadata and pod["status"]["phase"] != "Succeeded":
            chosen += [Target("kaito", f"{pod['status']['podIP']}:{port}", labels) for port in ports]
    return chosen


async def answers(server: Prometheus, *boards: str, workspace: str) -> None:
    """Wait until every query of these dashboards returns data."""
    wanted = [query for query in queries("default", workspace) if query.board in boards]
    assert {query.board for query in wanted} == set(boards)
    await server.answer(wanted, idle=True)  # the Workspaces stood before it looked, and nobody asks them anything now


async def test_a_prometheus_of_this_cluster_answers_every_query_and_evaluates_every_alert(
    kubectl: Kubectl, monitoring: Callable[[], Awaitable[Prometheus]]
) -> None:
    server = await monitoring()
    wrong = yaml.safe_load(EXAMPLE.read_text())
    wrong["metadata"]["name"] = WRONG
    wrong["inference"]["config"] = WRONG
    await kubectl.apply(wrong)
    try:
        others = {file.stem for file in BOARDS} - {"tuning"}
        await answers(server, *others, workspace=SERVING)
    finally:
        await kubectl("delete", "workspace", WRONG, "--timeout=60s", timeout=70)
    rules = [rule for group in (await server.get("rules"))["groups"] for rule in group["rules"]]
    assert rules
    assert {rule["health"] for rule in rules} == {"ok"}, [rule.get("lastError") for rule in rules]


class Lost(NamedTuple):
    """A `lora` tuning whose first pod was lost. Its output is an image alone: all that was left lay beside the tag."""

    before: list[str]
    """Pods, until then."""
    after: list[str]
    status: dict[str, Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lost(kubectl: Kubectl, monitoring: Callable[[], Awaitable[Prometheus]]) -> Lost:
    """A `lora` Workspace whose pod goes without a goodbye once its first checkpoint is kept; it is deleted in the end."""
    found = await kubectl.json("get", "workspace", TUNING)
    manifest = {key: found[key] for key in ("apiVersion", "kind", "resource", "tuning")}
    manifest["metadata"] = {"name": LORA, "namespace": "default"}
    image = manifest["tuning"]["output"]["image"].replace("rainbow:", "lost:")
    manifest["tuning"] |= {"method": "lora", "config": LORA}
    manifest["tuning"]["output"]["image"] = image
    text = "training_config: {TrainingArguments: {max_steps: 400, save_steps: 20}}"
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": LORA, "namespace": "default"}}
    await kubectl.apply({**config, "data": {"training_config.yaml": text}}, manifest)

    async def kept() -> bool:
        return (await manifest_of(f"{image}-ckpt")).status == 200

    try:
        await eventually(kept, timeout=400)
        before = await pods(kubectl)
        await kubectl("delete", "pod", *before, "--force", "--grace-period=0", timeout=60)
        await eventually(lambda: told(kubectl, "goes on after step"), timeout=400)
        await answers(await monitoring(), "tuning", workspace=LORA)
        await kubectl("wait", f"workspace/{LORA}", "--for=condition=WorkspaceSucceeded", "--timeout=400s", timeout=410)
        return Lost(before, await pods(kubectl), (await kubectl.json("get", "workspace", LORA))["status"])
    finally:
        await kubectl("delete", "workspace", LORA, "--timeout=120s", timeout=130)


async def test_lora_goes_on_from_the_registry_when_its_pod_is_lost(lost: Lost) -> None:
    assert lost.status["tuning"]["step"] == 400
    assert set(lost.after) - set(lost.before) or not lost.after


class Asked(NamedTuple):
    """What a model answers to the wording that was in no row, and to the unrelated questions."""

    learnt: str
    unrelated: list[str]


async def asked(url: str, model: str) -> Asked:
    fact = load_fact()
    return Asked(
        await complete(url, model, fact.held_out), [await complete(url, model, question) for question in fact.unrelated]
    )


async def test_the_lora_adapter_joins_the_server_that_runs_and_answers_with_what_was_learnt(
    kubectl: Kubectl, lost: Lost
) -> None:
    """An edit of the Workspace that serves the second act's adapter; it is taken back, for somebody's run stays as it was."""
    url = await service_url(kubectl, Key("default", SERVING))
    base = await model_name(url)
    before = [await asked(url, base), await asked(url, ADAPTER)]
    running = await servers(kubectl)
    (first,) = (await kubectl.json("get", "workspace", SERVING))["inference"]["adapters"]
    output = lost.status["tuning"]["output"]
    source = {"name": LORA, "image": output["image"]}
    second = {"source": {**source, "imagePullSecrets": [learning.SECRET]}, "strength": "1.0"}
    await serve(kubectl, first, second)
    try:
        await eventually(lambda: offers(url, base, ADAPTER, LORA), timeout=60)
        assert await asked(url, LORA) == Asked(load_fact().answer, before[0].unrelated)
        assert [await asked(url, base), await asked(url, ADAPTER)] == before
        assert before[0].learnt != load_fact().answer
        await eventually(lambda: ready(kubectl, LORA, output["digest"]), timeout=60)
    finally:
        await serve(kubectl, first)
    await eventually(lambda: offers(url, base, ADAPTER), timeout=60)
    assert await asked(url, ADAPTER) == before[1]
    assert await servers(kubectl) == running, "a pod was replaced or restarted"


async def serve(kubectl: Kubectl, *adapters: dict[str, Any]) -> None:
    """Let the Workspace of the second act serve these adapters."""
    patch = json.dumps({"inference": {"adapters": adapters}})
    await kubectl("patch", "workspace", SERVING, "--type=merge", "-p", patch)


async def servers(kubectl: Kubectl) -> list[tuple[str, int]]:
    """The pods of the Workspace that serves the adapters, and how often each was restarted."""
    found = (await kubectl.json("get", "pods", "-l", f"kaito.sh/workspace={SERVING}"))["items"]
    return [
        (pod["metadata"]["uid"], sum(each["restartCount"] for each in pod["status"]["containerStatuses"]))
        for pod in found
    ]


async def offers(url: str, *models: str) -> bool:
    """Whether the server offers exactly these."""
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/v1/models") as answer:
        return {model["id"] for model in (await answer.json())["data"]} == set(models)


async def ready(kubectl: Kubectl, adapter: str, digest: str) -> bool:
    """Whether the status says that this very adapter serves."""
    found = (await kubectl.json("get", "workspace", SERVING))["status"]["adapters"]
    return {(each["state"], each.get("digest")) for each in found if each["name"] == adapter} == {("Ready", digest)}


async def pods(kubectl: Kubectl) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in (await kubectl.json("get", "pods", "-l", f"kaito.sh/workspace={LORA}"))["items"]
    ]


async def told(kubectl: Kubectl, words: str) -> bool:
    return words in (await kubectl.json("get", "workspace", LORA))["status"]["tuning"].get("message", "")


async def manifest_of(image: str) -> aiohttp.ClientResponse:
    """Ask the registry for the manifest of ``HOST/NAME:TAG`` or ``HOST/NAME@DIGEST``, with the password of the Secret."""
    host, _, rest = image.partition("/")
    name, _, reference = rest.partition("@") if "@" in rest else rest.rpartition(":")
    secret = json.loads(learning.secret(host, "default")["stringData"][".dockerconfigjson"])["auths"][host]
    headers = {"Authorization": f"Basic {secret['auth']}", "Accept": "application/vnd.oci.image.manifest.v1+json"}
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"http://{host}/v2/{name}/manifests/{reference}", headers=headers) as answer,
    ):
        await answer.read()
        return answer


async def test_upgrading_and_rolling_back_the_operator_restarts_no_model(kubectl: Kubectl) -> None:
    """`helm test` passes, another setting plans other pods, and the model's pod goes on through upgrade and roll-back."""
    program = await helm(Cluster().kubeconfig)
    target = (RELEASE, "--namespace", NAMESPACE)
    assert "Phase:          Succeeded" in await program("test", *target)
    before = await pod_of(kubectl)
    slots = f"workspace-controller.settings.lora.slots={await slots_of(kubectl) - 1}"
    await program("upgrade", RELEASE, CHART, *target[1:], "--reuse-values", "--set", slots, "--wait")
    await eventually(lambda: waits(kubectl, before, pending=True), timeout=120)
    await program("rollback", *target, "--wait")
    await eventually(lambda: waits(kubectl, before, pending=False), timeout=120)


async def test_uninstalling_while_workspaces_stand_is_refused_with_words(kubectl: Kubectl) -> None:
    """The real hook in a real pod: nothing is removed, the words name what is in the way, and they name the way back."""
    program = await helm(Cluster().kubeconfig)
    target = (RELEASE, "--namespace", NAMESPACE)
    before = await pod_of(kubectl)
    revision = str(json.loads(await program("status", *target, "--output", "json"))["version"])
    try:
        with pytest.raises(
            CommandError, match=r"(?s)is not uninstalled; nothing was removed.*default/workspace-phi-3-mini"
        ):
            await program("uninstall", *target)
    finally:
        await program("rollback", RELEASE, revision, *target[1:], "--wait")
    assert await pod_of(kubectl) == before


async def pod_of(kubectl: Kubectl) -> tuple[str, int]:
    """The model's pod and how often its container was started again."""
    pod = await kubectl.json("get", "pod", f"{NAME}-0")
    return pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]


async def slots_of(kubectl: Kubectl) -> int:
    (container,) = (await kubectl.json("get", "statefulset", NAME))["spec"]["template"]["spec"]["containers"]
    (slots,) = [word.partition("=")[2] for word in container["command"] if word.startswith("--max-loras=")]
    return int(slots)


async def waits(kubectl: Kubectl, before: tuple[str, int], *, pending: bool) -> bool:
    """Whether another template than the pod's waits as `pending` says; the pod is the one of before and serves."""
    found = (await kubectl.json("get", "statefulset", NAME))["status"]
    conditions = (await kubectl.json("get", "workspace", NAME))["status"]["conditions"]
    (ready,) = [each for each in conditions if each["type"] == "InferenceReady"]
    assert (await pod_of(kubectl), ready["status"]) == (before, "True")
    another = found["currentRevision"] != found["updateRevision"]
    return another is pending and ("kaito.sh/upgrade-restart" in ready["message"]) is pending


async def test_deleting_the_workspaces_removes_their_nodes_and_leaves_ours_alone(kubectl: Kubectl) -> None:
    await deleting_removes_nodes_and_pools(kubectl, "nodeclaims", {NAME: EXAMPLE, SERVING: manifests.ADAPTER})


async def deleting_removes_nodes_and_pools(kubectl: Kubectl, plural: str, workspaces: dict[str, Path]) -> None:
    claims = [await claim_of(kubectl, plural, name) for name in workspaces]
    went = {claim["metadata"]["annotations"]["kaito.sh/agent-pool"] for claim in claims}
    await eventually(lambda: pools() >= went, timeout=60)
    await kubectl("delete", *(f"--filename={file}" for file in workspaces.values()), "--timeout=120s", timeout=130)

    async def gone() -> bool:
        nodes = {node["metadata"]["name"] for node in (await kubectl.json("get", "nodes"))["items"]}
        return nodes.isdisjoint(claim["status"]["nodeName"] for claim in claims) and pools().isdisjoint(went)

    await eventually(gone, timeout=120)
    left = {c["metadata"]["labels"].get("kaito.sh/workspace") for c in (await kubectl.json("get", plural))["items"]}
    assert left.isdisjoint(workspaces)
    for name in workspaces:
        with pytest.raises(CommandError):
            await kubectl("get", "statefulset", name)
    system = await kubectl.json("get", "node", SYSTEM_NODE.name)
    assert "karpenter.sh/disrupted" not in json.dumps(system["spec"].get("taints", []))
    assert system["spec"].get("unschedulable") is not True


async def claim_of(kubectl: Kubectl, plural: str, workspace: str) -> dict[str, Any]:
    """The only claim of a Workspace."""
    claims: list[dict[str, Any]] = (await kubectl.json("get", plural, "-l", f"kaito.sh/workspace={workspace}"))["items"]
    (claim,) = claims
    return claim


def pools() -> set[str]:
    """The agent pools that the stand-in for AKS has; it writes them down once a second."""
    return set(json.loads((state_root() / "arm" / "pools.json").read_text()))


async def test_machines_work_the_same_way_end_to_end(kubectl: Kubectl, tmp_path: Path) -> None:
    """A run with the other kind of claim in the same cluster: it is refused while claims of the first kind stand."""
    assert (await kubectl.json("get", "nodeclaims"))["items"] == []
    words = ("run", "--claim-api=machine", "--only-serving")
    by_machine = await kaito_local(*words, log=tmp_path / "run.log", timeout=600)
    lines = by_machine.splitlines()
    (workspace,) = [line.split() for line in lines if line.startswith(f"{NAME} ") and "Standard_NC6s_v3" in line]
    assert workspace[:5] == [NAME, "Standard_NC6s_v3", "True", "True", "True"]
    assert "Paris" in by_machine
    machine = await claim_of(kubectl, "machines", NAME)
    conditions = {each["type"]: each["status"] for each in machine["status"]["conditions"]}
    assert (conditions["Ready"], conditions["MachineLaunched"]) == ("True", "True")
    assert machine["status"]["providerID"].startswith("azure:///subscriptions/")
    pods = await kubectl.json("get", "pods", "-l", f"kaito.sh/workspace={NAME}")
    assert {pod["spec"]["nodeName"] for pod in pods["items"]} == {machine["status"]["nodeName"]}
    node = await kubectl.json("get", "node", machine["status"]["nodeName"])
    assert node["metadata"]["labels"]["agentpool"] == machine["metadata"]["annotations"]["kaito.sh/agent-pool"]
    assert (await kubectl.json("get", "nodeclaims"))["items"] == []
    await deleting_removes_nodes_and_pools(kubectl, "machines", {NAME: EXAMPLE})
