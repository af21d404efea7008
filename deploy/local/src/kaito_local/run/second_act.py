"""The second act of the main job: an adapter is trained from one manifest, and another Workspace answers with what was learnt."""

from pathlib import Path

import msgspec

from kaito_api.meta import Key
from kaito_api.workspace import Workspace
from kaito_local.demo_data.rows import ROWS, load_fact
from kaito_local.errors import LocalError
from kaito_local.kubectl import Kubectl
from kaito_local.progress import say
from kaito_local.run import learning, manifests
from kaito_local.run.ask import complete, model_name, reachable
from kaito_local.run.follow import follow, follow_tuning
from kaito_local.run.phases import Phases
from kaito_local.run.restart import allow_restart
from kubecore.config import load_config

IMAGE = "adapters/rainbow:0.0.1"
ADAPTER = "phi-3-adapter"
"""The name that the example gives the adapter: requests ask for it as a model."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Where it is played."""

    kubectl: Kubectl
    kubeconfig: Path
    address: str
    """Of this machine, as pods reach it."""
    server: str
    """The model server's image."""
    timeout: float
    """Seconds for each Workspace."""


async def learn(stage: Stage, phases: Phases) -> None:
    """Train, push, serve and ask. LocalError where the adapter did not learn what it should."""
    kubectl, timeout = stage.kubectl, stage.timeout
    with phases.phase("second act: the data set, a registry with a password, and its Secret"):
        registry = await learning.adapter_registry(stage.address).up()
        url = await learning.serve_data(stage.address)
        say(f"  {ROWS} rows at {url}; adapters go to {registry}")
        await kubectl.apply(learning.secret(registry, "default"))
    config = load_config(str(stage.kubeconfig))
    image = f"{registry}/{IMAGE}"
    manifest = manifests.tuning(image, learning.SECRET, url)
    with phases.phase(f"tuning: kubectl apply -f examples/{manifests.TUNING.name} (registry, Secret and URL replaced)"):
        await kubectl.apply(manifest)
        trained = await follow_tuning(config, manifests.key_of(manifest), timeout)
        _say_result(trained)
    manifest = manifests.with_adapter(image, learning.SECRET)
    key = manifests.key_of(manifest)
    with phases.phase(
        f"the adapter serves: kubectl apply -f examples/{manifests.ADAPTER.name} (image and Secret replaced)"
    ):
        await kubectl.apply(manifest)
        await allow_restart(kubectl, key, stage.server)
        await follow(config, key, stage.server, timeout)
    with phases.phase("what was learnt"):
        await _show_learnt(await service_url(kubectl, key))


async def service_url(kubectl: Kubectl, key: Key) -> str:
    """The address of a Workspace's Service, which this machine reaches too."""
    service = await kubectl.json("get", "service", key.name, "-n", key.namespace)
    return f"http://{service['spec']['clusterIP']}"


def _say_result(workspace: Workspace) -> None:
    tuning = workspace.status.tuning
    if tuning is None or tuning.output is None:
        raise LocalError(f"Workspace {workspace.metadata.key} succeeded and names no adapter in its status")
    spans = [
        f"{phase.name.lower()} {(phase.finished_at - phase.started_at).total_seconds():.0f} s"
        for phase in workspace.status.phases
        if phase.finished_at is not None
    ]
    say(f"  {', '.join(spans)}")
    print(f"\nstatus.tuning.output.image: {tuning.output.image}")


async def _show_learnt(url: str) -> None:
    fact = load_fact()
    await reachable(url)
    base = await model_name(url)
    if base == ADAPTER:
        raise LocalError(f"{url} offers no base model beside the adapter {ADAPTER}")
    before, after = await complete(url, base, fact.held_out), await complete(url, ADAPTER, fact.held_out)
    print(f"\n{fact.held_out} (this wording is in no row of the data)\n  base:    {before}\n  adapter: {after}")
    same = 0
    for question in fact.unrelated:
        old, new = await complete(url, base, question), await complete(url, ADAPTER, question)
        same += old == new
        if old != new:
            print(f"\n{question}\n  base:    {old}\n  adapter: {new}")
    print(f"\n{same} of {len(fact.unrelated)} unrelated questions: the adapter answers as the base does")
    if after != fact.answer or before == after or same != len(fact.unrelated):
        raise LocalError(f"the adapter did not learn what it should: expected {fact.answer!r}, and the rest as before")
