"""The pods of a Workspace under their own ServiceAccount and the Role that the controller writes: every right is used, by name.

The containers' command lines are the controller's, read by the programs' own parsers; what the programs ask of the apiserver is
asked by their own code, with a token bound to the pod, past both policies. The audit log says what was used and what was refused.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from security_flows import MANIFEST, RELEASE, SERVICE, TUNING, Flows, controller
from security_record import Record, Right, named_rights, read_record

import adapter_packager.arguments
import adapter_packager.cli
import model_server.cluster
import model_server.options
import tuner.cluster
import tuner.options
from adapter_packager.exits import ExitCode
from kaito_api.core.access import DOCKER_CONFIG_TYPE
from kaito_api.labels import REPORT_PREFIX
from kaito_api.report import decode
from kaito_api.resources import JOBS, NODECLAIMS, PODS, ROLES, SECRETS, STATEFULSETS, WORKSPACES
from kaito_local.claims import claim_stand_in
from kaito_local.nodes.backends import ReadyNodes
from kaito_oci.testing.docker_registry import DockerRegistry
from kubecore.client import Client
from kubecore.clock import SystemClock
from kubecore.testing.asserts import eventually
from model_server import pull_secrets
from model_server.adapters.acquire import Acquirer
from model_server.adapters.engine_adapters import EngineAdapters
from model_server.adapters.manager import AdapterManager
from model_server.adapters.states import AdapterStates
from model_server.adapters.store import AdapterStore
from model_server.fetch import adapters as adapter_look
from model_server.lifecycle import Lifecycle
from model_server.metrics import Metrics
from model_server.options import FetchOptions, ServeOptions
from model_server.registries import registry_settings
from model_server.reporter import Reporter
from tuner.keeper import keeper
from tuner.reporter import Reporter as TunerReporter
from workspace_controller.naming import service_account_name
from workspace_controller.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

PATIENCE = 30.0


class Containers:
    """The programs of a pod's containers, as far as they ask the apiserver, with this machine's folders for the pod's.

    `edit` gives the adapter another image while the server watches, and returns that.
    """

    def __init__(self, folder: Path, secret: bytes, edit: Callable[[], Awaitable[str]]) -> None:
        self._edit = edit
        self._log = folder / "termination-log"
        self._folder = folder / "files"
        self._mounted = folder / "push-secret"
        self._mounted.mkdir()
        (self._mounted / ".dockerconfigjson").write_bytes(secret)

    async def run(self, container: dict[str, Any]) -> None:
        """Run one container's part."""
        program, *words = container["command"]
        match (program, words[0]):
            case ("model-server", "fetch"):
                await self._fetch(container["name"], words)
            case ("model-server", "serve"):
                await self._serve(container["name"], words)
            case ("tuner", "run"):
                await self._tune(words)
            case ("adapter-packager", "check"):
                await self._pack(words, ExitCode.OK)
            case ("adapter-packager", "push"):
                words[1] = str(self._folder)  # nothing was trained here
                await self._pack(words, ExitCode.ADAPTER_MISSING)
            case _:
                pytest.fail(f"a program that this test does not know: {container['command']}")

    async def _fetch(self, name: str, words: list[str]) -> None:
        """Everything but the download of weights or data."""
        options = model_server.options.parse(words)
        assert isinstance(options, FetchOptions)
        assert options.workspace is not None
        async with model_server.cluster.connect(options.workspace) as connection:
            assert connection is not None
            reporter = self._reporter(name, connection)
            reporter.state("Pulling")
            await pull_secrets.read(connection.client, options.workspace.namespace, options.pull_secrets)
            if options.max_rank:
                here = msgspec.structs.replace(options, to=self._folder)
                reporter.adapters(await adapter_look.look(here, connection.client))
                assert [adapter.reason for adapter in reporter.report.adapters] == ["NotFound"], "past the login"
            await reporter.last_word(PATIENCE)

    async def _serve(self, name: str, words: list[str]) -> None:
        """The adapters' part of the server, up to the registry's answer; there is no engine."""
        options = model_server.options.parse(words)
        assert isinstance(options, ServeOptions)
        assert options.workspace is not None
        async with model_server.cluster.connect(options.workspace) as connection:
            assert connection is not None
            reporter = self._reporter(name, connection)
            reporter.state("Loading")
            metrics, store = Metrics(CollectorRegistry()), AdapterStore(self._folder / "adapters")
            no_engine = SimpleNamespace(output_processor=SimpleNamespace(add_request=None))
            manager = AdapterManager(
                workspace=options.workspace,
                client=connection.client,
                base_name=options.served_model_name,
                mounted=options.adapters_dir,
                adapter_store=store,
                acquirer=Acquirer(
                    adapter_store=store,
                    client=connection.client,
                    namespace=options.workspace.namespace,
                    registries=registry_settings(options),
                    base=None,
                    max_rank=16,
                    metrics=metrics,
                ),
                engine=EngineAdapters(cast("Any", no_engine), None, Lifecycle(), SystemClock()),
                states=AdapterStates(metrics, reporter.adapters),
                metrics=metrics,
                capacity=4,
            )
            async with asyncio.TaskGroup() as group:
                managing = group.create_task(manager.run())
                await asyncio.wait_for(manager.settled.wait(), PATIENCE)
                image = await self._edit()
                await eventually(lambda: [a.image for a in reporter.report.adapters] == [image], timeout=PATIENCE)
                managing.cancel()
            assert [adapter.reason for adapter in reporter.report.adapters] == ["NotFound"], "past the login"
            await reporter.last_word(PATIENCE)

    async def _tune(self, words: list[str]) -> None:
        """Everything but data and training."""
        options = msgspec.structs.replace(tuner.options.parse(words), work=self._folder, output=self._folder)
        async with tuner.cluster.connected(options.workspace) as pod:
            assert pod is not None
            reporter = TunerReporter(pod.annotate, self._log)
            keeping = keeper(options, pod)
            assert keeping is not None
            assert await keeping.bring_result(request="request") is False
            reporter.state("Fetching")
            await reporter.last_word(PATIENCE)

    async def _pack(self, words: list[str], expected: int) -> None:
        """The whole program; kubelet has mounted the push Secret, so it is not read."""
        here = ["--push-secret-folder", str(self._mounted), "--termination-log", str(self._log)]
        options = adapter_packager.arguments.parse([*words, *here])
        assert await asyncio.wait_for(adapter_packager.cli.main(options), PATIENCE) == expected

    def _reporter(self, name: str, connection: model_server.cluster.Cluster) -> Reporter:
        return Reporter(clock=SystemClock(), annotate=connection.annotator(name), termination_log=self._log)


def workspaces(registry: str, tag: str = "1") -> dict[str, dict[str, Any]]:
    """One that serves and one that tunes, each with every kind of Secret that its pods may read."""
    pulled = {"presetOptions": {"image": f"{registry}/weights:1", "imagePullSecrets": ["weights"]}}
    adapter = {"name": "extra", "image": f"{registry}/extra:{tag}", "imagePullSecrets": ["adapters"]}
    inference = {"preset": MANIFEST["inference"]["preset"] | pulled, "adapters": [{"source": adapter}]}
    tuning = TUNING["tuning"] | {
        "preset": TUNING["tuning"]["preset"] | pulled,
        "input": {"image": f"{registry}/rows:1", "imagePullSecrets": ["rows"]},
        "output": {"image": f"{registry}/tuned:1", "imagePushSecret": "push"},
    }
    return {"served": MANIFEST | {"inference": inference}, "tuned": TUNING | {"tuning": tuning}}


async def judged(flows: Flows, name: str, read: Callable[[], Record]) -> None:
    """What was used is what the Role grants, object by object; "" grants any (a Job's pods have no names beforehand)."""
    role = await flows.raw(ROLES, service_account_name(name))
    granted = named_rights(role["rules"])

    def on(use: tuple[Right, str]) -> tuple[Right, str]:
        return (use[0], "") if (use[0], "") in granted else use

    def complete() -> bool:
        """The apiserver writes a line after its answer."""
        unused = granted - {on(use) for use in read().named}
        assert not unused, ("granted and never used", sorted(f"{right} {of}" for right, of in unused))
        return True

    await eventually(complete, timeout=10)
    record = read()
    assert not record.denied
    assert not {on(use) for use in record.named} - granted


async def test_the_pods_use_every_right_and_miss_none(
    apiserver: Any,
    render: Any,
    log_in: Any,
    release_of: Any,
    client: Client,
    restricted: str,
    locked_registry: DockerRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flows = Flows(client, restricted, NODECLAIMS)

    async def edit() -> str:
        edited = await flows.apply("served", workspaces(locked_registry.host, "2")["served"])
        return str(edited.inference.adapters[0].source.image)

    containers = Containers(tmp_path, locked_registry.dockerconfigjson(), edit)
    document = {".dockerconfigjson": base64.b64encode(locked_registry.dockerconfigjson()).decode()}
    for secret in ("weights", "adapters", "rows", "push"):
        metadata = {"name": secret, "namespace": restricted}
        await client.create(SECRETS, {"metadata": metadata, "type": DOCKER_CONFIG_TYPE, "data": document})
    objects = await render("--set", f"{SERVICE}.webhook.enabled=false", namespace=RELEASE)
    settings = Settings(plain_http_hosts=frozenset({locked_registry.host}))
    async with release_of(objects) as release:
        kubeconfig = await log_in(RELEASE, SERVICE)
        async with claim_stand_in(client, ReadyNodes(client), NODECLAIMS), controller(kubeconfig, settings):
            for name, manifest in workspaces(locked_registry.host).items():
                await flows.apply(name, manifest)
            for name, workload in (("served", STATEFULSETS), ("tuned", JOBS)):
                await flows.planned(workload, name)
                pod, account = f"{name}-0", service_account_name(name)
                spec = await flows.pod(workload, name, pod)
                identity = {"KUBECONFIG": str(await log_in(restricted, account, pod)), "POD_NAME": pod}
                for variable, value in {**identity, "POD_NAMESPACE": restricted}.items():
                    monkeypatch.setenv(variable, value)
                every = [*spec["initContainers"], *spec["containers"]]
                for container in every:
                    await containers.run(container)
                user = f"system:serviceaccount:{restricted}:{account}"
                await judged(flows, name, partial(read_record, apiserver, user, release.since))
                reported = (await client.get(PODS, flows.key(pod))).metadata.annotations
                assert all(decode(reported[REPORT_PREFIX + container["name"]]) for container in every)
            for name in ("served", "tuned"):
                await client.delete(WORKSPACES, flows.key(name))
                await client.delete(PODS, flows.key(f"{name}-0"), grace_seconds=0)
            for name in ("served", "tuned"):
                await flows.gone(WORKSPACES, name)
