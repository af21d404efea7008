"""The main job on a cluster that exists and was named: images are pushed to a registry that its nodes and pods can reach.

Nothing of the cluster's nodes is touched: whether a claim gets a machine is the affair of the provisioner that runs there.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import yaml

from kaito_local.binaries import ensure
from kaito_local.errors import LocalError
from kaito_local.images.build import build_images, image_store
from kaito_local.images.push import push_images
from kaito_local.kubectl import Kubectl
from kaito_local.progress import say
from kaito_local.run.chart import helm, install, local_values
from kaito_local.run.follow import follow
from kaito_local.run.local import EXAMPLE, IMAGES, WORKSPACE, Options
from kaito_local.run.phases import Phases
from kaito_local.run.presets import push_demo_models
from kaito_local.run.restart import allow_restart
from kaito_local.run.show import show_answers, show_rows
from kubecore.config import load_config

_FORWARD_TIMEOUT = 30.0


async def run_existing(context: str, registry_text: str, options: Options) -> None:
    """Install, apply and ask on the named context of the user's kubeconfig."""
    phases = Phases()
    kubeconfig = _users_kubeconfig()
    check_context(context, kubeconfig)
    kubectl = Kubectl((await ensure(("kubectl",)))["kubectl"], kubeconfig, context)
    registry, plain_http = parse_registry(registry_text)
    store = image_store()
    with phases.phase(f"cluster {context}"):
        say("  " + (await kubectl("version", "--output=yaml")).rpartition("gitVersion: ")[2].split("\n")[0])
    with phases.phase("images (built once, kept in the cache)"):
        images = await build_images(IMAGES, store)
    with phases.phase(f"push to {registry}"):
        await push_images(store, images, registry, plain_http=plain_http)
        await push_demo_models(f"{registry}/presets", plain_http=plain_http)
    references = {image.name: image.reference(registry) for image in images}
    with phases.phase("umbrella chart (Helm)"):
        values = local_values(references, registry, options.claim_api, plain_http=plain_http)
        await install(await helm(kubeconfig, context), kubectl, values)
    with phases.phase(f"model: kubectl apply -f examples/{EXAMPLE.name}"):
        say("  its node is asked for by a claim: Karpenter or a gpu-provisioner in that cluster has to answer it")
        await kubectl("apply", "-f", EXAMPLE)
        await allow_restart(kubectl, WORKSPACE, references["model-server"])
        await follow(load_config(str(kubeconfig), context), WORKSPACE, references["model-server"], options.timeout)
    with phases.phase("answers"):
        await show_rows(kubectl, WORKSPACE)
        async with _forwarded(context) as url:
            await show_answers(url)
    say(f"\n{phases.table()}")


def _users_kubeconfig() -> Path:
    """The user's own kubeconfig: read because a context of it was named, and only then."""
    paths = [Path(path) for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path]
    for path in [*paths, Path.home() / ".kube" / "config"]:
        if path.is_file():
            return path
    raise LocalError("there is no kubeconfig: neither $KUBECONFIG nor ~/.kube/config")


def check_context(name: str, kubeconfig: Path) -> None:
    """Raises LocalError when the file has no context of that name."""
    found = yaml.safe_load(kubeconfig.read_text()) or {}
    known = [context["name"] for context in found.get("contexts") or []]
    if name not in known:
        raise LocalError(f"{kubeconfig} has no context {name!r}; it has: {', '.join(known) or 'none'}")


def parse_registry(text: str) -> tuple[str, bool]:
    """A registry reference and whether it speaks plain http, which an explicit ``http://`` says."""
    plain = text.startswith("http://")
    return text.removeprefix("http://").removeprefix("https://").rstrip("/"), plain


@asynccontextmanager
async def _forwarded(context: str) -> AsyncIterator[str]:
    """A port of this machine that leads to the Service, for the time of the block."""
    program = (await ensure(("kubectl",)))["kubectl"]
    cluster = (f"--kubeconfig={_users_kubeconfig()}", f"--context={context}")
    target = ("port-forward", "-n", WORKSPACE.namespace, f"service/{WORKSPACE.name}", ":80")
    process = await asyncio.create_subprocess_exec(program, *cluster, *target, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(_FORWARD_TIMEOUT):
            # "Forwarding from 127.0.0.1:40123 -> 5000"
            line = (await process.stdout.readline()).decode()
        address = line.removeprefix("Forwarding from ").partition(" ")[0]
        if not address:
            raise LocalError(f"kubectl port-forward to service {WORKSPACE.name} said nothing")
        yield f"http://{address}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
