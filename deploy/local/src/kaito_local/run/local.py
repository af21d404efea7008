"""The main job on this machine alone: every part is made here, from the images to the node."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from kaito_api.meta import Key
from kaito_local import binaries, host
from kaito_local.binaries import ensure
from kaito_local.cluster import PROGRAMS, SYSTEM_NODE, Cluster
from kaito_local.controlplane import ControlPlane
from kaito_local.disk import check_room
from kaito_local.errors import LocalError
from kaito_local.images import build
from kaito_local.images.blobs import BlobStore
from kaito_local.images.build import build_images, image_store
from kaito_local.images.catalog import SERVICES
from kaito_local.images.containerd import Containerd
from kaito_local.images.spec import Image
from kaito_local.images.store import load_template
from kaito_local.images_command import LOCAL_PREFIX
from kaito_local.locations import REPOSITORY, state_root
from kaito_local.progress import say
from kaito_local.registry import Registry
from kaito_local.run import learning, provisioner
from kaito_local.run.chart import helm, install, local_values
from kaito_local.run.follow import follow
from kaito_local.run.phases import Phases
from kaito_local.run.presets import push_demo_models
from kaito_local.run.restart import allow_restart
from kaito_local.run.second_act import Stage, learn, service_url
from kaito_local.run.show import show_answers, show_rows
from kubecore.config import load_config

EXAMPLE = REPOSITORY / "examples" / "inference-phi-3.yaml"
WORKSPACE = Key("default", "workspace-phi-3-mini")
_PACKAGES = {
    **host.NODE_PACKAGES,
    "debootstrap": "debootstrap",
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
}
IMAGES = tuple(SERVICES)

_WHO = {
    provisioner.REAL: "the gpu-provisioner, which asks a stand-in for AKS for agent pools",
    provisioner.STAND_IN: "a stand-in that knows only Karpenter's API, in the gpu-provisioner's place",
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the person at the terminal may choose."""

    claim_api: str = "nodeclaim"
    timeout: float = 900.0
    """Seconds to wait for the model to serve."""
    provisioner: str = provisioner.REAL
    """Who answers claims in a local cluster."""
    only_serving: bool = False
    """Leave the second act out."""


async def run_local(options: Options) -> None:
    """Bring everything up, or take over what is there, and print the answers."""
    phases = Phases()
    cluster = Cluster()
    store = image_store()
    with phases.phase("this machine"):
        await _prepare(store)
    with phases.phase("images (built once, kept in the cache)"):
        images = await build_images(IMAGES, store)
        await load_template(store, images, LOCAL_PREFIX)
    with phases.phase("cluster"):
        await cluster.up()
        await _load_into_nodes(cluster, images)
    with phases.phase("local registry and the demo model in it"):
        registry = await Registry(state_root() / "registry", cluster.host_ip).up()
        _allow_plain_http(cluster.certs_d, registry)
        for name in await push_demo_models(f"{registry}/presets", plain_http=True):
            say(f"  {name}")
    kubectl = await cluster.kubectl()
    references = {image.name: image.reference(LOCAL_PREFIX) for image in images}
    with phases.phase("node provisioner"):
        say(f"  claims are answered by {_WHO[options.provisioner]}; each gets a real kubelet of its own")
        answering = await provisioner.start(cluster, options.provisioner, options.claim_api)
    with phases.phase("umbrella chart (Helm)"):
        values = local_values(
            references,
            registry,
            options.claim_api,
            node_selector=SYSTEM_NODE.labels,
            adapter_registry=f"{cluster.host_ip}:{learning.REGISTRY_PORT}",
            data_host=f"{cluster.host_ip}:{learning.DATA_PORT}",
        )
        values["gpu-provisioner"] |= answering
        await install(await helm(cluster.kubeconfig), kubectl, values)
    with phases.phase(f"model: kubectl apply -f examples/{EXAMPLE.name}"):
        await kubectl("apply", "-f", EXAMPLE)
        await allow_restart(kubectl, WORKSPACE, references["model-server"])
        await follow(load_config(str(cluster.kubeconfig)), WORKSPACE, references["model-server"], options.timeout)
    with phases.phase("answers"):
        await show_rows(kubectl, WORKSPACE)
        await show_answers(await service_url(kubectl, WORKSPACE))
    if not options.only_serving:
        stage = Stage(
            kubectl=kubectl,
            kubeconfig=cluster.kubeconfig,
            address=cluster.host_ip,
            server=references["model-server"],
            timeout=options.timeout,
        )
        await learn(stage, phases)
    say(f"\n{phases.table()}")
    programs = await ensure(("kubectl", "helm"))
    folders = ":".join(dict.fromkeys(str(program.parent) for program in programs.values()))
    say("\nIt keeps running; `make down` removes everything. To look around:")
    say(f'  export KUBECONFIG={cluster.kubeconfig} PATH="$PATH:{folders}"')


async def down() -> None:
    """End and remove everything that this machine runs for us."""
    await end_all(
        provisioner.stop,
        Cluster().down,
        learning.stop,
        Registry(state_root() / "registry").down,
        ControlPlane(state_root() / "control-plane").down,
    )


async def end_all(*ends: Callable[[], Awaitable[object]]) -> None:
    """End one after the other. What cannot be ended keeps nothing else alive: it is told, all together, at the end."""
    left = []
    for end in ends:
        try:
            await end()
        except (LocalError, OSError) as error:
            left.append(str(error))
    if left:
        raise LocalError("\n".join(left))


async def _prepare(store: BlobStore) -> None:
    """Install and build what is missing, once it is known that the disk can take everything that will be made."""
    host.check(_PACKAGES)
    programs = await binaries.disk_needs((*PROGRAMS, "helm"))
    check_room([*await build.disk_needs(IMAGES, store), *programs, *host.disk_needs(_PACKAGES)])
    await host.prepare(_PACKAGES)
    await ensure(("kubectl", "helm"))


async def _load_into_nodes(cluster: Cluster, images: list[Image]) -> None:
    """Nodes that ran before these images were built get what is new in them; new nodes start with everything."""
    store = image_store()
    for slot in cluster.nodes.nodes().values():
        await Containerd(slot.socket).load(store, images, LOCAL_PREFIX)


def _allow_plain_http(certs_d: Path, registry: str) -> None:
    """Tell the nodes' containerd that this registry speaks plain http."""
    folder = certs_d / registry
    folder.mkdir(parents=True, exist_ok=True)
    # containerd 1.6 takes the scheme from the table of the host, not from `server` alone.
    host_table = f'[host."http://{registry}"]\n  capabilities = ["pull", "resolve"]\n'
    (folder / "hosts.toml").write_text(f'server = "http://{registry}"\n{host_table}')
