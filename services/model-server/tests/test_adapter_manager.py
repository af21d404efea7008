"""The manager with its real store, acquirer and registry, against a model of the engine that notices what would kill it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from kaito_api.meta import Key, ObjectMeta
from kaito_api.report import AdapterReport, decode
from kaito_api.resources import PODS, WORKSPACES
from kaito_api.workspace import AdapterSpec, DataSource, InferenceSpec, Workspace
from kaito_local.pytest_plugin import ApiServer
from kaito_oci import RegistrySettings
from kaito_oci.testing.docker_registry import DockerRegistry
from kubecore.client import Client
from kubecore.clock import SystemClock
from kubecore.config import load_config
from kubecore.testing.asserts import eventually
from kubecore.transport import Transport
from model_server.adapters.acquire import Acquirer
from model_server.adapters.engine_adapters import EngineAdapters
from model_server.adapters.manager import AdapterManager
from model_server.adapters.states import AdapterStates
from model_server.adapters.store import AdapterStore
from model_server.adapters.version import Version, normalise_strength
from model_server.cluster import Cluster
from model_server.lifecycle import Lifecycle
from model_server.metrics import Metrics
from model_server.reporter import Reporter

if TYPE_CHECKING:
    from conftest import PushImage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CAPACITY = 8
STRENGTHS = ("0", "0.5", "1", "1.0")


class ModelEngine:
    """What vLLM holds. Where vLLM would die or serve something wrong, it says so in `faults`."""

    def __init__(self, chance: random.Random, lifecycle: Lifecycle) -> None:
        self.loaded: dict[int, Any] = {}
        self.faults: list[str] = []
        self.refuse = 0.0
        self._chance = chance
        self._lifecycle = lifecycle
        self.output_processor = SimpleNamespace(request_states={}, add_request=None)  # no sequences here

    async def add_lora(self, request: Any) -> bool:
        await asyncio.sleep(self._chance.random() / 500)
        if not (Path(request.lora_path) / "adapter_model.safetensors").is_file():
            self.faults.append(f"{request.lora_name}: its folder is gone")
        if self._chance.random() < self.refuse:
            raise RuntimeError("refused")
        if request.lora_name in {known.lora_name for known in self.loaded.values()}:
            self.faults.append(f"{request.lora_name} is in the engine twice")
        self.loaded[request.lora_int_id] = request
        if len(self.loaded) > CAPACITY:
            self.faults.append("full: one in use may be evicted")
        return True

    async def remove_lora(self, identity: int) -> bool:
        await asyncio.sleep(0)
        request = self.loaded.pop(identity, None)
        if request is not None and self._lifecycle.using(request.lora_name):
            self.faults.append(f"{request.lora_name} removed while a request uses it")
        return request is not None

    async def list_loras(self) -> set[int]:
        return set(self.loaded)


class Models:
    """The registry of names: what a request for a name gets."""

    def __init__(self, engine: ModelEngine) -> None:
        self._engine = engine
        self._last = 0
        self.served: dict[str, Version] = {}
        self.base_model_paths = [SimpleNamespace(name="base")]
        self.lora_id_counter = self

    def inc(self, step: int) -> int:
        self._last += step
        return self._last

    def publish(self, version: Version, request: Any, root: str) -> None:
        if request.lora_int_id not in self._engine.loaded:
            self._engine.faults.append(f"{version.engine_name} published, and the engine does not hold it")
        self.served[version.name] = version

    def withdraw(self, name: str) -> None:
        self.served.pop(name, None)

    def forget(self, version: Version) -> None:
        if version in self.served.values():
            self._engine.faults.append(f"{version.engine_name} forgotten while served")


def seen(reports: Iterable[AdapterReport]) -> dict[str, tuple[str, str, str]]:
    return {report.name: (report.state, report.digest, report.strength) for report in reports}


class Pod:
    """The pod that the manager runs in, and its Workspace, on a real apiserver."""

    def __init__(self, client: Client, namespace: str, folder: Path) -> None:
        self.client = client
        self.workspace, self.key = Key(namespace, "w"), Key(namespace, "w-0")
        self.reporter = Reporter(
            clock=SystemClock(),
            annotate=Cluster(client, self.key).annotator("model-server"),
            termination_log=folder / "last-word",
        )

    async def create(self) -> None:
        metadata = {"name": self.workspace.name, "namespace": self.workspace.namespace}
        spec = {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "w"}}}
        preset = {"preset": {"name": "phi-3-mini-4k-instruct"}}
        await self.client.create(WORKSPACES, {"metadata": metadata, "resource": spec, "inference": preset})
        containers = [{"name": "model-server", "image": "none"}]
        metadata = {"name": self.key.name, "namespace": self.key.namespace}
        await self.client.create(PODS, {"metadata": metadata, "spec": {"containers": containers}})

    async def edit(self, entries: list[AdapterSpec], mark: str) -> None:
        """Write these adapters, and no others, into the Workspace; another mark than before asks for all tags anew."""
        patch = {
            "metadata": {"annotations": {"kaito.sh/refresh": mark}},
            "inference": {"adapters": msgspec.to_builtins(entries)},
        }
        await self.client.patch(WORKSPACES, self.workspace, patch)

    async def reported(self) -> dict[str, tuple[str, str, str]]:
        """Read back what the pod says of each adapter."""
        annotations = (await self.client.get(PODS, self.key)).metadata.annotations
        report = decode(annotations.get("kaito.sh/report.model-server", ""))
        return seen(report.adapters) if report else {}


class Stage:
    """A manager at work."""

    def __init__(self, folder: Path, registry: DockerRegistry, seed: int, pod: Pod | None = None) -> None:
        self.pod = pod
        self.chance = random.Random(seed)
        self.lifecycle = Lifecycle()
        self.engine = ModelEngine(self.chance, self.lifecycle)
        self.models = Models(self.engine)
        self.reports: dict[str, AdapterReport] = {}
        self.store = AdapterStore(folder / "store")
        self._folder = folder
        self._registry = registry
        self._numbers = CollectorRegistry()
        metrics = Metrics(self._numbers)
        acquirer = Acquirer(
            adapter_store=self.store,
            client=None,
            namespace="n",
            registries=RegistrySettings(plain_http_hosts=(registry.host,)),
            base=None,
            max_rank=16,
            metrics=metrics,
        )
        self.manager = AdapterManager(
            workspace=pod.workspace if pod else None,
            client=pod.client if pod else None,
            base_name="base",
            mounted=folder / "none",
            adapter_store=self.store,
            acquirer=acquirer,
            engine=EngineAdapters(self.engine, self.models, self.lifecycle, SystemClock()),  # type: ignore[arg-type]
            states=AdapterStates(metrics, self._report),
            metrics=metrics,
            capacity=CAPACITY,
            resolve_seconds=0.3,
        )

    def _report(self, reports: list[AdapterReport]) -> None:
        self.reports = {report.name: report for report in reports}
        if self.pod is not None:
            self.pod.reporter.adapters(reports)

    def entries(self, wanted: dict[str, tuple[str, str]]) -> list[AdapterSpec]:
        """Return these (name -> tag, strength) as the Workspace lists them. The order of the list says nothing."""
        entries = [
            AdapterSpec(source=DataSource(name=name, image=self.image(tag)), strength=strength)
            for name, (tag, strength) in wanted.items()
        ]
        self.chance.shuffle(entries)
        return entries

    def want(self, wanted: dict[str, tuple[str, str]], *, everything: bool = False) -> None:
        """Hand over a Workspace that was edited so."""
        metadata = ObjectMeta(name="w", namespace="n")
        workspace = Workspace(metadata=metadata, inference=InferenceSpec(adapters=self.entries(wanted)))
        self.manager.want(workspace, everything=everything)

    def image(self, tag: str) -> str:
        return f"{self._registry.host}/adapters/test:{tag}"

    def loads(self) -> dict[str, float]:
        """How often each phase of a load was gone through."""
        name = "kaito_adapter_load_seconds_count"
        samples = (sample for family in self._numbers.collect() for sample in family.samples if sample.name == name)
        return {sample.labels["phase"]: sample.value for sample in samples}

    def versions(self) -> set[str]:
        return {folder.name for folder in (self._folder / "store" / "versions").iterdir()}

    def is_at(self, wanted: dict[str, tuple[str, str]], digests: dict[str, str]) -> bool:
        """Whether engine, names, reports and disk are as the Workspace wants them, and nothing else is there."""
        expected = {
            name: Version(name, digests[tag], normalise_strength(strength, strong=False))
            for name, (tag, strength) in wanted.items()
        }
        held = {request.lora_name for request in self.engine.loaded.values()}
        return (
            self.models.served == expected
            and held == {version.engine_name for version in expected.values()}
            and seen(self.reports.values())
            == {name: ("Ready", version.digest, version.strength) for name, version in expected.items()}
            and self.versions() == {f"{v.name}@{v.digest.replace(':', '-')}-s{v.strength}" for v in expected.values()}
        )


@asynccontextmanager
async def at_work(stage: Stage) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(stage.manager.run())
        async with asyncio.timeout(30):
            await stage.manager.settled.wait()
        yield
        task.cancel()


@pytest.fixture
async def digests(registry: DockerRegistry, tmp_path: Path, push: PushImage) -> dict[str, str]:
    """Three adapters under their tags."""
    return {tag: await push_tag(registry, tmp_path / tag, push, tag, number) for number, tag in enumerate("xyz")}


async def push_tag(registry: DockerRegistry, folder: Path, push: PushImage, tag: str, number: int) -> str:
    folder.mkdir(exist_ok=True)
    name = "base_model.model.model.layers.0.self_attn.o_proj.lora_{}.weight"
    header = {
        name.format("A"): {"dtype": "F16", "shape": [4, 8], "data_offsets": [0, 64]},
        name.format("B"): {"dtype": "F16", "shape": [8, 4], "data_offsets": [64, 128]},
    }
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes([number]) * 128
    (folder / "adapter_model.safetensors").write_bytes(content)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["o_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    files = {f"data/{file}": folder / file for file in ("adapter_config.json", "adapter_model.safetensors")}
    return (await push(f"{registry.host}/adapters/test:{tag}", files)).partition("@")[2]


async def test_two_hundred_edit_sequences_end_as_they_should(
    registry: DockerRegistry, digests: dict[str, str], tmp_path: Path
) -> None:
    stage = Stage(tmp_path, registry, seed=20261121)
    chance = stage.chance
    async with at_work(stage):
        for number in range(200):
            stage.engine.refuse = 0.1 if number % 4 == 0 else 0.0
            wanted: dict[str, tuple[str, str]] = {}
            with ExitStack() as flights:
                for _ in range(chance.randint(1, 6)):
                    names = chance.sample("abcdef", chance.randint(0, 6))
                    wanted = {name: (chance.choice("xyz"), chance.choice(STRENGTHS)) for name in names}
                    stage.want(wanted, everything=chance.random() < 0.1)
                    for version in stage.models.served.values():
                        if chance.random() < 0.3:  # a request begins, and goes on while the Workspace is edited
                            flights.enter_context(stage.lifecycle.flight()).engine_name = version.engine_name
                    await asyncio.sleep(chance.choice((0, 0, 0.001, 0.005, 0.02)))
            stage.engine.refuse = 0.0
            await eventually(lambda w=wanted: stage.is_at(w, digests), timeout=30)
        assert stage.engine.faults == []


@pytest.mark.integration
async def test_twenty_edit_sequences_of_a_real_workspace_end_as_they_should(
    registry: DockerRegistry, digests: dict[str, str], tmp_path: Path, apiserver: ApiServer, namespace: str
) -> None:
    """As above, with writes to a real apiserver that the manager's own watch brings; the end is read back from the Pod."""
    async with Transport(load_config(str(apiserver.kubeconfig)), user_agent="test") as transport:
        pod = Pod(Client(transport), namespace, tmp_path)
        await pod.create()
        stage = Stage(tmp_path, registry, seed=20261122, pod=pod)
        chance = stage.chance
        async with asyncio.TaskGroup() as group, at_work(stage):
            reporting = group.create_task(pod.reporter.run())
            mark = ""
            for number in range(20):
                stage.engine.refuse = 0.1 if number % 4 == 0 else 0.0
                wanted: dict[str, tuple[str, str]] = {}
                with ExitStack() as flights:
                    for _ in range(chance.randint(1, 6)):
                        names = chance.sample("abcdef", chance.randint(0, 6))
                        wanted = {name: (chance.choice("xyz"), chance.choice(STRENGTHS)) for name in names}
                        mark = str(number) if chance.random() < 0.3 else mark
                        await pod.edit(stage.entries(wanted), mark)
                        for version in stage.models.served.values():
                            if chance.random() < 0.3:
                                flights.enter_context(stage.lifecycle.flight()).engine_name = version.engine_name
                stage.engine.refuse = 0.0
                await eventually(lambda w=wanted: stage.is_at(w, digests), timeout=30)

                async def told() -> bool:
                    return await pod.reported() == seen(stage.reports.values())

                await eventually(told, timeout=30)
            reporting.cancel()
        assert stage.engine.faults == []


async def test_a_full_engine_makes_the_new_one_wait_not_the_old_one_die(
    registry: DockerRegistry, digests: dict[str, str], tmp_path: Path
) -> None:
    stage = Stage(tmp_path, registry, seed=1)
    full = {f"a{number}": ("x", "1") for number in range(CAPACITY)}
    async with at_work(stage):
        stage.want(full)
        await eventually(lambda: stage.is_at(full, digests), timeout=30)
        with stage.lifecycle.flight() as flight:
            flight.engine_name = stage.models.served["a0"].engine_name
            changed = {**full, "a0": ("y", "1")}
            stage.want(changed)
            await eventually(lambda: stage.reports["a0"].reason == "AdaptersPending", timeout=30)
            assert stage.models.served["a0"].digest == digests["x"]
            # Another one goes, and makes the room.
            del changed["a7"]
            stage.want(changed)
            await eventually(lambda: stage.models.served["a0"].digest == digests["y"], timeout=30)
            stage.want(changed | {"a7": ("z", "1"), "a8": ("z", "1")})
            await eventually(lambda: "RestartRequired" in {r.reason for r in stage.reports.values()}, timeout=30)
        stage.want(changed)
        await eventually(lambda: stage.is_at(changed, digests), timeout=30)
        assert stage.engine.faults == []


async def test_what_is_removed_under_a_request_drains_and_can_come_back(
    registry: DockerRegistry, digests: dict[str, str], tmp_path: Path
) -> None:
    stage = Stage(tmp_path, registry, seed=2)
    async with at_work(stage):
        stage.want({"a": ("x", "1")})
        await eventually(lambda: stage.is_at({"a": ("x", "1")}, digests), timeout=30)
        with stage.lifecycle.flight() as flight:
            flight.engine_name = stage.models.served["a"].engine_name
            stage.want({})
            await eventually(lambda: stage.reports["a"].state == "Draining", timeout=30)
            assert stage.models.served == {}
            assert len(stage.engine.loaded) == 1
            loads = stage.models.inc(0)
            stage.want({"a": ("x", "1")})
            await eventually(lambda: stage.is_at({"a": ("x", "1")}, digests), timeout=30)
            assert stage.models.inc(0) == loads  # revived, not loaded again
            stage.want({})
            await eventually(lambda: stage.reports["a"].state == "Draining", timeout=30)
        await eventually(lambda: stage.is_at({}, digests), timeout=30)
        assert stage.engine.faults == []


async def test_a_moved_tag_is_seen_on_the_period_and_a_digest_stays(
    registry: DockerRegistry, digests: dict[str, str], tmp_path: Path, push: PushImage
) -> None:
    stage = Stage(tmp_path, registry, seed=3)
    async with at_work(stage):
        pinned = f"x@{digests['x']}"
        stage.want({"tag": ("x", "1"), "pin": (pinned, "1")})
        await eventually(lambda: set(stage.models.served) == {"tag", "pin"}, timeout=30)
        moved = await push_tag(registry, tmp_path / "x", push, "x", 99)
        await eventually(lambda: stage.models.served["tag"].digest == moved, timeout=30)
        assert stage.models.served["pin"].digest == digests["x"]
        assert stage.engine.faults == []


async def test_two_names_with_the_same_bytes_are_pulled_once_and_kept_until_both_are_gone(
    registry: DockerRegistry, digests: dict[str, str], tmp_path: Path
) -> None:
    stage = Stage(tmp_path, registry, seed=4)
    async with at_work(stage):
        both = {"soft": ("x", "0.5"), "loud": ("x", "1")}
        stage.want(both)
        await eventually(lambda: stage.is_at(both, digests), timeout=30)
        once = dict.fromkeys(("peek", "pull"), 1.0)
        assert stage.loads() == once | dict.fromkeys(("resolve", "preflight", "stage", "engine", "total"), 2.0)
        del both["soft"]
        stage.want(both)
        await eventually(lambda: stage.is_at(both, digests), timeout=30)
        assert stage.store.has(digests["x"])
        stage.want({})
        await eventually(lambda: stage.is_at({}, digests) and not stage.store.has(digests["x"]), timeout=30)
        assert stage.engine.faults == []
