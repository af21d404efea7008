"""The same promises on a real kube-apiserver: compaction, restart, silence, rotation, conflict, ownership, size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest
import yaml
from prometheus_client import REGISTRY

from kaito_api.core import ConfigMap
from kaito_api.meta import Key, Resource
from kaito_api.resources import CONFIGMAPS, EVENTS, PODS, SERVICEACCOUNTS
from kubecore.backoff import BackoffPolicy
from kubecore.client import Client
from kubecore.config import ClusterConfig, load_config
from kubecore.controller import Controller
from kubecore.errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound, NotServed
from kubecore.events import EventRecorder
from kubecore.finalizers import remove_finalizer
from kubecore.informer import Event, Informer
from kubecore.reflector import Timings
from kubecore.testing.asserts import eventually
from kubecore.testing.proxy import TcpProxy
from kubecore.transport import Transport

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
PATIENT = Timings(silence=70, backoff=BackoffPolicy(base=0.1, cap=1))


@pytest.fixture
async def client(apiserver) -> AsyncIterator[Client]:
    async with Transport(load_config(str(apiserver.kubeconfig)), user_agent="kubecore-test/1") as transport:
        yield Client(transport)


@pytest.fixture
async def proxy(apiserver) -> AsyncIterator[TcpProxy]:
    address = urlsplit(apiserver.url)
    async with TcpProxy(str(address.hostname), int(address.port or 443)) as running:
        yield running


@pytest.fixture
async def far_client(apiserver, proxy: TcpProxy, tmp_path: Path) -> AsyncIterator[Client]:
    """A client whose network the test can break."""
    document = yaml.safe_load(apiserver.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{proxy.port}"
    path = tmp_path / "through-proxy"
    path.write_text(yaml.safe_dump(document))
    async with Transport(load_config(str(path)), user_agent="kubecore-test/1") as transport:
        yield Client(transport)


def cm(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "data": data}


@asynccontextmanager
async def running(*informers: Informer[Any]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(informer.run()) for informer in informers]
        for informer in informers:
            await informer.wait_synced(30)
        yield
        for task in tasks:
            task.cancel()


def lists() -> float:
    return REGISTRY.get_sample_value("kubecore_informer_lists_total", {"resource": "configmaps"}) or 0.0


def names(objects: Iterable[Any]) -> set[str]:
    return {found.metadata.name for found in objects}


async def compact(state_dir: Path) -> None:
    """Compact etcd to its newest revision through its HTTP gateway."""
    port = msgspec.json.decode((state_dir / "endpoints.json").read_bytes())["etcd"]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        answer = await (await session.post("/v3/kv/range", json={"key": "AA=="})).json()
        revision = answer["header"]["revision"]
        done = await session.post("/v3/kv/compaction", json={"revision": revision, "physical": True})
        assert done.status == 200, await done.text()


class TestInformer:
    async def test_410_after_compaction(
        self, apiserver, namespace: str, client: Client, far_client: Client, proxy: TcpProxy
    ) -> None:
        for name in ("kept", "deleted", "changed"):
            await client.create(CONFIGMAPS, cm(namespace, name))
        informer = Informer(far_client, CONFIGMAPS, namespace, timings=PATIENT)
        told: list[Event[ConfigMap]] = []
        async with running(informer):
            before = lists()
            informer.add_handler(told.append)
            told.clear()
            await proxy.cut()
            await client.delete(CONFIGMAPS, Key(namespace, "deleted"))
            await client.patch(CONFIGMAPS, Key(namespace, "changed"), {"data": {"x": "y"}})
            await client.create(CONFIGMAPS, cm(namespace, "added"))
            await compact(apiserver.state_dir)
            await apiserver.restart()  # the watch cache starts anew: the informer's version is in neither
            await proxy.up()
            await eventually(lambda: names(informer.list()) == {"kept", "changed", "added"}, timeout=30)
            assert lists() == before + 1, "the watch went on without a list: this was no 410"
        assert {(change.type.value, change.key.name) for change in told} == {
            ("DELETED", "deleted"),
            ("MODIFIED", "changed"),
            ("ADDED", "added"),
        }

    async def test_apiserver_restart(self, apiserver, namespace: str, client: Client) -> None:
        informer = Informer(client, CONFIGMAPS, namespace, timings=PATIENT)
        async with running(informer):
            await client.create(CONFIGMAPS, cm(namespace, "before"))
            await apiserver.restart()
            await client.create(CONFIGMAPS, cm(namespace, "after"))
            await eventually(lambda: names(informer.list()) == {"before", "after"})
            await eventually(lambda: informer.reflector.last_error is None)

    async def test_a_silent_connection_is_left(
        self, namespace: str, client: Client, far_client: Client, proxy: TcpProxy
    ) -> None:
        informer = Informer(far_client, CONFIGMAPS, namespace, timings=Timings(silence=2))
        async with running(informer):
            await eventually(lambda: informer.reflector.last_error is None)
            proxy.freeze()
            await client.create(CONFIGMAPS, cm(namespace, "unseen"))
            await eventually(lambda: names(informer.list()) == {"unseen"})

    async def test_selectors_and_indexes(self, namespace: str, client: Client) -> None:
        for name, color in (("a", "red"), ("b", "blue"), ("c", "red")):
            labelled = cm(namespace, name, color=color)
            labelled["metadata"]["labels"] = {"color": color}
            await client.create(CONFIGMAPS, labelled)
        red = Informer(client, CONFIGMAPS, label_selector="color=red", indexes={"color": lambda o: o.data.values()})
        one = Informer(client, CONFIGMAPS, namespace, field_selector="metadata.name=b")
        async with running(red, one):
            assert names(one.list()) == {"b"}
            assert names(red.by_index("color", "red")) >= {"a", "c"}
            await client.patch(CONFIGMAPS, Key(namespace, "a"), {"metadata": {"labels": {"color": "blue"}}})
            await eventually(lambda: "a" not in names(red.list()))

    async def test_a_thousand_objects_at_the_start(self, namespace: str, client: Client) -> None:
        limit = asyncio.Semaphore(32)

        async def make(number: int) -> None:
            async with limit:
                await client.create(CONFIGMAPS, cm(namespace, f"old-{number:04}"))

        await asyncio.gather(*(make(number) for number in range(1000)))
        informer = Informer(client, CONFIGMAPS, namespace)
        done: list[str] = []
        fresh_is_known = asyncio.Event()

        async def reconcile(key: Key) -> None:
            if len(done) >= 100:
                await fresh_is_known.wait()
            done.append(key.name)

        def changed(event: Event[ConfigMap]) -> None:
            controller.enqueue(event.key, low_priority=event.initial)
            if event.key.name == "fresh":
                fresh_is_known.set()

        controller = Controller("thousand", reconcile, workers=4)
        informer.add_handler(changed)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(informer.run())
            await informer.wait_synced(30)
            working = group.create_task(controller.run())
            await client.create(CONFIGMAPS, cm(namespace, "fresh"))
            await eventually(lambda: len(done) == 1001, timeout=30)
            watching.cancel()
            controller.shutdown()
        assert working.done()
        assert len(set(done)) == 1001
        assert done.index("fresh") <= 100 + 4, "the fresh object waited for more than what was in work"


class TestCredentials:
    @pytest.mark.slow
    async def test_the_pods_token_is_rotated(self, apiserver, namespace: str, client: Client, tmp_path: Path) -> None:
        """The in-cluster configuration on a real service account, whose first token becomes void while in use."""
        for name in ("first", "second"):
            await client.create(SERVICEACCOUNTS, {"metadata": {"name": name, "namespace": namespace}})
        in_it = ("-n", namespace)
        accounts = [f"--serviceaccount={namespace}:{name}" for name in ("first", "second")]
        await apiserver.kubectl("create", "role", "reader", *in_it, "--verb=list", "--resource=configmaps")
        await apiserver.kubectl("create", "rolebinding", "reader", *in_it, "--role=reader", *accounts)
        first, second = [
            (await apiserver.kubectl("create", "token", name, *in_it)).strip() for name in ("first", "second")
        ]
        (tmp_path / "token").write_text(first)
        (tmp_path / "ca.crt").write_bytes((apiserver.state_dir / "pki" / "ca.crt").read_bytes())
        address = urlsplit(apiserver.url)
        environ = {"KUBERNETES_SERVICE_HOST": str(address.hostname), "KUBERNETES_SERVICE_PORT": str(address.port)}
        config = ClusterConfig(service_account=tmp_path, environ=environ)
        async with Transport(config, user_agent="in-cluster/1") as transport:
            inside = Client(transport)

            async def may_read() -> bool:
                try:
                    return await inside.list(CONFIGMAPS, namespace) == []
                except Forbidden:  # the authorizer learns of the role through a watch
                    return False

            await eventually(may_read)
            await client.delete(SERVICEACCOUNTS, Key(namespace, "first"))
            (tmp_path / "token").write_text(second)

            async def uses_the_second_token() -> bool:
                await inside.list(CONFIGMAPS, namespace)  # never fails, whenever the server notices
                return transport.authorization == f"Bearer {second}"

            await eventually(uses_the_second_token, timeout=60, interval=0.5)


class TestWrites:
    async def test_errors_of_the_real_server(self, namespace: str, client: Client) -> None:
        key = Key(namespace, "a")
        with pytest.raises(NotFound):
            await client.get(CONFIGMAPS, key)
        created = await client.create(CONFIGMAPS, cm(namespace, "a"))
        with pytest.raises(AlreadyExists):
            await client.create(CONFIGMAPS, cm(namespace, "a"))
        await client.patch(CONFIGMAPS, key, {"data": {"x": "y"}})
        stale = cm(namespace, "a", x="z")
        stale["metadata"]["resourceVersion"] = created.metadata.resource_version
        with pytest.raises(Conflict):
            await client.replace(CONFIGMAPS, stale)
        with pytest.raises(Conflict):
            await client.delete(CONFIGMAPS, key, uid="somebody else")
        with pytest.raises(Invalid):
            await client.create(CONFIGMAPS, cm(namespace, "Not A Name"))
        with pytest.raises(NotServed):
            await client.get(Resource("", "v1", "nothings", "Nothing", True, ConfigMap), key)
        await client.delete(CONFIGMAPS, key, uid=created.metadata.uid)
        await client.delete(CONFIGMAPS, key)
        with pytest.raises(NotFound):
            await client.get(CONFIGMAPS, key)

    async def test_eviction(self, namespace: str, client: Client) -> None:
        container = {"name": "c", "image": "none"}
        pod = {"metadata": {"name": "p", "namespace": namespace}, "spec": {"containers": [container]}}
        await client.create(PODS, pod)
        await client.evict(Key(namespace, "p"), grace_seconds=0)
        await client.evict(Key(namespace, "gone"))
        with pytest.raises(NotFound):
            await client.get(PODS, Key(namespace, "p"))

    async def test_finalizers(self, namespace: str, client: Client) -> None:
        ours, theirs = "kaito.sh/ours", "example.com/theirs"
        body = cm(namespace, "a")
        body["metadata"]["finalizers"] = [ours, theirs]
        both = await client.create(CONFIGMAPS, body)
        await client.patch(
            CONFIGMAPS, Key(namespace, "a"), {"data": {"x": "y"}}
        )  # a newer version does not hinder removal
        await client.delete(CONFIGMAPS, Key(namespace, "a"))
        after = await remove_finalizer(client, CONFIGMAPS, both, ours)
        assert after.metadata.finalizers == [theirs]
        assert await remove_finalizer(client, CONFIGMAPS, after, ours) is after
        with pytest.raises(Conflict):
            await remove_finalizer(client, CONFIGMAPS, both, ours)
        await remove_finalizer(client, CONFIGMAPS, after, theirs)
        assert await remove_finalizer(client, CONFIGMAPS, after, theirs) is None

    async def test_a_namesake_keeps_its_finalizer(self, namespace: str, client: Client) -> None:
        body = cm(namespace, "a")
        body["metadata"]["finalizers"] = ["kaito.sh/ours"]
        read = await client.create(CONFIGMAPS, body)
        await client.delete(CONFIGMAPS, Key(namespace, "a"))
        assert await remove_finalizer(client, CONFIGMAPS, read, "kaito.sh/ours") is not None
        await client.create(CONFIGMAPS, body)
        with pytest.raises(Conflict):
            await remove_finalizer(client, CONFIGMAPS, read, "kaito.sh/ours")


class TestEvents:
    async def test_recorded_once_and_counted(self, namespace: str, client: Client) -> None:
        about = await client.create(CONFIGMAPS, cm(namespace, "a"))
        recorder = EventRecorder(client, "kubecore-test", window=0.3)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(recorder.run())
            for _ in range(5):
                recorder.record(about, CONFIGMAPS, "Warning", "WentWrong", "it went wrong")
            recorder.record(about, CONFIGMAPS, "Normal", "WentWell", "it went well")
            await recorder.flush(30)
            await asyncio.sleep(0.4)
            recorder.record(about, CONFIGMAPS, "Warning", "WentWrong", "it went wrong")
            await recorder.flush(30)
            task.cancel()
        found = {event.reason: event for event in await client.list(EVENTS, namespace)}
        assert {reason: event.count for reason, event in found.items()} == {"WentWrong": 6, "WentWell": 1}
        assert found["WentWrong"].involved_object.uid == about.metadata.uid
        assert found["WentWrong"].type == "Warning"

    async def test_a_namespace_that_is_gone_blocks_nobody(self, namespace: str, client: Client) -> None:
        about = await client.create(CONFIGMAPS, cm(namespace, "a"))
        lost = msgspec.structs.replace(about, metadata=msgspec.structs.replace(about.metadata, namespace="no-such"))
        recorder = EventRecorder(client, "kubecore-test")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(recorder.run())
            recorder.record(lost, CONFIGMAPS, "Normal", "Lost", "nowhere to go")
            recorder.record(about, CONFIGMAPS, "Normal", "Found", "here")
            await recorder.flush(30)
            task.cancel()
        assert [event.reason for event in await client.list(EVENTS, namespace)] == ["Found"]
