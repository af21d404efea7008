"""The full local cluster: pods on two real nodes, Services, DNS, drain, images that survive, nothing left behind."""

import asyncio
import json
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kaito_api.labels import INSTANCE_TYPE
from kaito_api.meta import Resource
from kaito_api.resources import MACHINES, NODECLAIMS
from kaito_local.binaries import ensure
from kaito_local.cluster import SYSTEM_NODE, Cluster
from kaito_local.command import run
from kaito_local.errors import CommandError, LocalError
from kaito_local.kubectl import Kubectl
from kaito_local.marker import require_ours
from kaito_local.network import links
from kaito_local.nodes import cgroups, mounts
from kaito_local.nodes.containerd import Containerd
from kaito_local.nodes.slot import NodeSpec, Slot
from kaito_local.processes import ProcessTable, end
from kaito_local.pytest_plugin import ApiServer, run_apart
from kaito_local.scratch_image import write_scratch_image
from kubecore.testing.asserts import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

TEST_LABEL = "test.example/claim"  # no provisioner that may run in the cluster besides serves it
PROBE = "kaito.local/probe:1"
POOL_NODE = NodeSpec(
    name="aks-e2e-00000000-vmss000000",
    pool="e2e",
    labels={"agentpool": "e2e", "kubernetes.azure.com/agentpool": "e2e", "example.kubernetes.io/reserved": "yes"},
    taints=("sku=gpu:NoSchedule",),
    provider_id="azure:///subscriptions/s/resourceGroups/g/virtualMachineScaleSets/aks-e2e/virtualMachines/0",
    gpus=2,
    instance_type="Standard_NC12s_v3",
)


@pytest.fixture(scope="module")
def probe_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    source = Path(__file__).parent / "probe"
    build = ("go", "build", "-trimpath", "-buildvcs=false", "-o", folder / "probe", ".")
    run_apart(run(*build, cwd=source, env={"CGO_ENABLED": "0"}, timeout=300))
    write_scratch_image(folder / "probe.tar", PROBE, folder / "probe")
    return folder / "probe.tar"


@pytest.fixture(scope="module")
def pool_node(cluster: Cluster, probe_archive: Path) -> Iterator[Slot]:
    slot = run_apart(cluster.nodes.start(POOL_NODE))
    for number in (1, slot.number):
        run_apart(cluster.nodes.import_image(probe_archive, number))
    yield slot
    run_apart(cluster.nodes.stop(POOL_NODE.name))


def pod(name: str, node: str, *args: str, restart: str = "Never", gpus: int = 0) -> dict[str, Any]:
    resources = {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
    container = {"name": "probe", "image": PROBE, "args": list(args), "resources": resources}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "tolerations": [{"key": "sku", "operator": "Exists"}],
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
        },
    }


async def asked_from(kubectl: Kubectl, namespace: str, node: str, url: str) -> str:
    """What a pod on that node gets from that address."""
    name = f"asks-{abs(hash((node, url))) % 10**8}"
    await kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(pod(name, node, "get", url)))
    try:
        done = ("wait", f"pod/{name}", "-n", namespace, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
        await kubectl(*done, timeout=70)
    except CommandError as error:
        log = await kubectl("logs", name, "-n", namespace)
        raise AssertionError(f"{url} from {node}: {log}") from error
    return await kubectl("logs", name, "-n", namespace)


async def serve(kubectl: Kubectl, namespace: str, name: str, node: str, gpus: int = 0) -> str:
    """Runs a server with a Service in front; returns the pod's address."""
    served = pod(name, node, "serve", ":8080", f"hello from {name}", gpus=gpus)
    await kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(served))
    await kubectl("wait", f"pod/{name}", "-n", namespace, "--for=condition=Ready", "--timeout=60s", timeout=70)
    await kubectl("expose", "pod", name, "-n", namespace, "--port=80", "--target-port=8080")
    return str((await kubectl.json("get", "pod", name, "-n", namespace))["status"]["podIP"])


async def test_the_pool_node_is_what_was_asked_for(cluster: Cluster, pool_node: Slot) -> None:
    kubectl = await cluster.kubectl()
    node = await kubectl.json("get", "node", POOL_NODE.name)
    assert node["spec"]["providerID"] == POOL_NODE.provider_id
    assert {"key": "sku", "value": "gpu", "effect": "NoSchedule"} in node["spec"]["taints"]
    assert POOL_NODE.labels.items() <= node["metadata"]["labels"].items()
    assert node["metadata"]["labels"]["node.kubernetes.io/instance-type"] == "Standard_NC12s_v3"
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "2"
    assert node["status"]["capacity"]["nvidia.com/gpu"] == "2"
    assert pool_node.number > 1


async def test_pods_of_two_nodes_services_and_dns(cluster: Cluster, pool_node: Slot, cluster_namespace: str) -> None:
    kubectl = await cluster.kubectl()
    address = await serve(kubectl, cluster_namespace, "gpu-server", POOL_NODE.name, gpus=1)
    assert address.startswith(pool_node.pod_subnet.rsplit(".", 1)[0])
    service = f"http://gpu-server.{cluster_namespace}.svc.cluster.local/"
    for node in (SYSTEM_NODE.name, POOL_NODE.name):  # the second is the pod's own node: a hairpin through the Service
        for url in (f"http://{address}:8080/", service, "http://gpu-server/"):
            answer = await asked_from(kubectl, cluster_namespace, node, url)
            assert answer.startswith("hello from gpu-server to 10.201."), (node, url)


async def test_the_host_reaches_services_and_pods_reach_the_host(
    cluster: Cluster, pool_node: Slot, cluster_namespace: str
) -> None:
    kubectl = await cluster.kubectl()
    await serve(kubectl, cluster_namespace, "server", POOL_NODE.name)
    service = await kubectl.json("get", "service", "server", "-n", cluster_namespace)
    service_ip = service["spec"]["clusterIP"]

    async def answer() -> str:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            try:
                async with session.get(f"http://{service_ip}/") as response:
                    return await response.text()
            except (aiohttp.ClientError, TimeoutError):
                return ""

    assert (await eventually(answer, timeout=20)).startswith("hello from server")

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        peer = writer.get_extra_info("peername")[0]
        writer.write(f"HTTP/1.0 200 OK\r\n\r\nthe host greets {peer}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, cluster.host_ip, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        for node in (SYSTEM_NODE.name, POOL_NODE.name):
            greeting = await asked_from(kubectl, cluster_namespace, node, f"http://{cluster.host_ip}:{port}/")
            assert greeting.startswith("the host greets 10.201.")


async def test_exec_goes_through_the_apiserver(cluster: Cluster, pool_node: Slot, cluster_namespace: str) -> None:
    kubectl = await cluster.kubectl()
    await serve(kubectl, cluster_namespace, "server", POOL_NODE.name)
    answer = await kubectl("exec", "server", "-n", cluster_namespace, "--", "/probe", "get", "http://localhost:8080/")
    assert answer.startswith("hello from server")


async def test_a_stopped_node_is_drained_and_leaves_only_its_images(cluster: Cluster, probe_archive: Path) -> None:
    kubectl = await cluster.kubectl()
    spec = NodeSpec(name="short-lived", pool="short")
    slot = await cluster.nodes.start(spec)
    await cluster.nodes.import_image(probe_archive, slot.number)
    await kubectl("create", "-f", "-", stdin=json.dumps(pod("evicted", spec.name, "serve", ":8080", "x")))
    await kubectl("wait", "pod/evicted", "--for=condition=Ready", "--timeout=60s", timeout=70)
    await cluster.nodes.stop(spec.name)
    assert await kubectl("get", "pod", "evicted", "--ignore-not-found") == ""
    assert await kubectl("get", "node", spec.name, "--ignore-not-found") == ""
    assert mounts.beneath(slot.folder) == []
    assert slot.bridge not in await links()
    assert not [folder for folder in cgroups.present() if folder.name == slot.cgroup]
    assert not slot.run.exists()
    ready = await kubectl(
        "get", "node", SYSTEM_NODE.name, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    )
    assert ready == "True"

    again = await cluster.nodes.start(NodeSpec(name="second-life", pool="short"))
    try:
        assert again.number == slot.number
        assert PROBE in await Containerd(again).images()
    finally:
        await cluster.nodes.stop("second-life")


async def test_a_node_that_does_not_exist_is_stopped_without_complaint(cluster: Cluster) -> None:
    await cluster.nodes.stop("never-was")


async def test_nodes_of_a_foreign_cluster_are_not_touched(apiserver: ApiServer) -> None:
    kubectl = Kubectl((await ensure(("kubectl",)))["kubectl"], apiserver.kubeconfig)
    with pytest.raises(LocalError, match="not made by kaito-local"):
        await require_ours(kubectl)


async def test_a_cluster_that_runs_is_taken_over(cluster: Cluster) -> None:
    kubectl = await cluster.kubectl()
    before = await kubectl("get", "node", SYSTEM_NODE.name, "-o", "jsonpath={.metadata.uid}")
    await Cluster().up()
    assert await kubectl("get", "node", SYSTEM_NODE.name, "-o", "jsonpath={.metadata.uid}") == before


async def kill(slot: Slot) -> None:
    """Kills the node's kubelet and containerd; its containers run on."""
    for process in ProcessTable(slot.folder).all():
        os.kill(process.pid, signal.SIGKILL)
        await end(process, grace=10)


async def test_a_node_whose_processes_were_killed_starts_again_and_ends_all_the_same(
    cluster: Cluster, probe_archive: Path
) -> None:
    kubectl = await cluster.kubectl()
    spec = NodeSpec(name="killed", pool="killed", gpus=1)
    slot = await cluster.nodes.start(spec)
    try:
        await cluster.nodes.import_image(probe_archive, slot.number)
        served = pod("orphaned", spec.name, "serve", ":8080", "x")
        await kubectl("create", "-f", "-", stdin=json.dumps(served))
        await kubectl("wait", "pod/orphaned", "--for=condition=Ready", "--timeout=60s", timeout=70)
        await kill(slot)
        assert (await cluster.nodes.start(spec)).number == slot.number
        gpus = "jsonpath={.status.allocatable.nvidia\\.com/gpu}"
        assert await kubectl("get", "node", spec.name, "-o", gpus) == "1"
        await kill(slot)
    finally:
        await cluster.nodes.stop(spec.name)
        await kubectl("delete", "pod", "orphaned", "--ignore-not-found", "--force")
    assert not cgroups.processes(slot.cgroup)
    assert mounts.beneath(slot.folder) == []
    assert not [folder for folder in cgroups.present() if folder.name == slot.cgroup]


@pytest.mark.parametrize(("api", "resource"), [("nodeclaim", NODECLAIMS), ("machine", MACHINES)])
async def test_a_claim_brings_a_kubelet_and_its_deletion_drains_it(
    cluster: Cluster, api: str, resource: Resource[Any]
) -> None:
    kubectl = await cluster.kubectl()
    name = f"w{uuid.uuid4().hex[:8]}"
    spec: dict[str, Any] = {
        "requirements": [{"key": INSTANCE_TYPE, "operator": "In", "values": ["Standard_NC12s_v3"]}],
        "nodeClassRef": {"group": "test.example", "kind": "TestNodeClass", "name": "default"},
    }
    if resource is MACHINES:
        spec["machineTemplateRef"] = {"name": spec.pop("nodeClassRef")["name"]}
    metadata = {"name": name, "labels": {TEST_LABEL: "claim", "accelerator": "nvidia"}}
    claim = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": spec}
    kind = f"{resource.plural}.{resource.group}"
    started = cluster.start_claims(api, TEST_LABEL)
    try:
        await kubectl.apply(claim)
        await kubectl("wait", f"{kind}/{name}", "--for=condition=Ready", "--timeout=60s", timeout=70)
        status = (await kubectl.json("get", kind, name))["status"]
        node = await kubectl.json("get", "node", status["nodeName"])
        assert node["status"]["allocatable"]["nvidia.com/gpu"] == "2"
        assert node["spec"]["providerID"] == status["providerID"]
        await kubectl("delete", kind, name, "--timeout=60s", timeout=70)
        assert await kubectl("get", "node", status["nodeName"], "--ignore-not-found") == ""
        assert status["nodeName"] not in cluster.nodes.nodes()
        assert await kubectl("get", "node", SYSTEM_NODE.name, "-o", "jsonpath={.spec.taints}") == ""
    finally:
        if started:
            await cluster.stop_claims(api, TEST_LABEL)


async def test_another_machine_reaches_neither_nodes_nor_pods(cluster: Cluster, pool_node: Slot) -> None:
    """A network namespace with a link to this machine stands for a neighbour that routes our addresses here."""
    neighbour, link = "kaito-test-lan", "kaitotestlan"
    run_in = ("ip", "netns", "exec", neighbour)
    await run("ip", "netns", "add", neighbour)
    try:
        await run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", neighbour)
        await run("ip", "addr", "add", "198.51.100.1/30", "dev", link)
        await run("ip", "link", "set", link, "up")
        await run(*run_in, "ip", "addr", "add", "198.51.100.2/30", "dev", "eth0")
        await run(*run_in, "ip", "link", "set", "eth0", "up")
        await run(*run_in, "ip", "route", "add", "10.0.0.0/8", "via", "198.51.100.1")
        server = await asyncio.start_server(lambda _, writer: writer.close(), "198.51.100.1", 0)
        async with server:
            await run(*run_in, *_connect("198.51.100.1", server.sockets[0].getsockname()[1]))  # the link itself works
        dns = await (await cluster.kubectl()).json("get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns")
        apiserver = cluster.control_plane.url.rpartition(":")[2]
        for address, port in ((cluster.host_ip, int(apiserver)), (dns["items"][0]["status"]["podIP"], 8181)):
            await run(*_connect(address, port))
            with pytest.raises(CommandError, match="status 124"):
                await run(*run_in, *_connect(address, port))
    finally:
        await run("ip", "netns", "del", neighbour)


def _connect(address: str, port: int) -> tuple[str, ...]:
    """A program that opens a connection, or ends with status 124 after two seconds."""
    return ("timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}")
