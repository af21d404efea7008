"""Whole processes: start, readiness, hand-over, drain, and every way to lose the lease, on a real kube-apiserver."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import yaml

from kaito_api.core import ConfigMap
from kaito_api.meta import Key, Resource
from kaito_api.resources import CONFIGMAPS, LEASES
from kubecore.backoff import BackoffPolicy
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.controller import Controller
from kubecore.errors import LeaderLost, NotFound, NotLeader
from kubecore.informer import Informer
from kubecore.leader import LeaderConfig, LeaderElector
from kubecore.manager import Manager
from kubecore.reflector import Timings
from kubecore.testing.asserts import eventually
from kubecore.testing.proxy import TcpProxy
from kubecore.transport import Transport

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
CANDIDATE = Path(__file__).with_name("candidate.py")


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
    document = yaml.safe_load(apiserver.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{proxy.port}"
    (tmp_path / "through-proxy").write_text(yaml.safe_dump(document))
    async with Transport(load_config(str(tmp_path / "through-proxy")), user_agent="kubecore-test/1") as transport:
        yield Client(transport)


class Candidate:
    """One process of candidate.py and the lines that it printed, with their monotonic times (one clock for the machine)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: dict[str, float] = {}

    async def read(self) -> None:
        assert self.process.stdout is not None
        while line := (await self.process.stdout.readline()).decode():
            what, at = line.rsplit(" ", 1)
            self.said.setdefault(what, float(at))


@asynccontextmanager
async def candidates(apiserver, namespace: str, *identities: str) -> AsyncIterator[list[Candidate]]:
    async with asyncio.TaskGroup() as group:
        started = []
        for identity in identities:
            arguments = (str(CANDIDATE), str(apiserver.kubeconfig), namespace, identity)
            process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
            started.append(Candidate(process))
            group.create_task(started[-1].read())
            await eventually(lambda: "started" in started[-1].said, timeout=60)
            if len(started) == 1:
                await eventually(lambda: "leading" in started[0].said, timeout=60)
        try:
            yield started
        finally:
            for candidate in started:
                if candidate.process.returncode is None:
                    candidate.process.kill()
                await candidate.process.wait()


class TestHandOver:
    async def test_a_killed_leader_is_replaced_once_its_lease_stood_still(
        self, apiserver, namespace: str, client: Client
    ) -> None:
        async with candidates(apiserver, namespace, "one", "two") as (one, two):
            await asyncio.sleep(3)
            assert "leading" not in two.said
            one.process.kill()
            await eventually(lambda: "leading" in two.said, timeout=30)
            lease = await client.get(LEASES, Key(namespace, "candidate"))
            assert (lease.spec.holder_identity, lease.spec.lease_transitions) == ("two", 1)

    async def test_sigterm_drains_then_hands_over(self, apiserver, namespace: str, client: Client) -> None:
        async with candidates(apiserver, namespace, "one", "two") as (one, two):
            await client.create(CONFIGMAPS, {"metadata": {"name": "work", "namespace": namespace}})
            await eventually(lambda: "begin work" in one.said)
            one.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(one.process.wait(), 30) == 0
            lease = await client.get(LEASES, Key(namespace, "candidate"))
            assert lease.spec.holder_identity != "one", "its lease is given back, nobody waits for its end"
            await eventually(lambda: "stopped" in one.said)
            assert one.said["end work"] <= one.said["stopped"]
            await eventually(lambda: "leading" in two.said)
            assert two.said["leading"] > one.said["end work"], "the next leader began before the last one had finished"

    async def test_a_standby_ends_at_once(self, apiserver, namespace: str) -> None:
        async with candidates(apiserver, namespace, "one", "two") as (_, two):
            two.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(two.process.wait(), 30) == 0
            assert "leading" not in two.said


class TestLosing:
    def config(self, namespace: str, identity: str = "me") -> LeaderConfig:
        return LeaderConfig("lease", namespace, identity=identity)

    async def test_a_stolen_lease_ends_the_process(self, namespace: str, client: Client) -> None:
        fenced = Client(client.transport)
        manager = Manager(fenced, health_port=None, metrics_port=None, leader=self.config(namespace))

        async def steal() -> None:
            await eventually(lambda: manager.is_leader)
            await client.patch(LEASES, Key(namespace, "lease"), {"spec": {"holderIdentity": "thief"}})

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(steal())
            with pytest.raises(LeaderLost, match="taken by thief"):
                await manager.run()
        assert not manager.is_leader
        with pytest.raises(NotLeader):
            await fenced.create(CONFIGMAPS, {"metadata": {"name": "a", "namespace": namespace}})
        lease = await client.get(LEASES, Key(namespace, "lease"))
        assert lease.spec.holder_identity == "thief"

    @pytest.mark.parametrize("network", ["cut", "frozen"])
    async def test_a_lost_network_ends_leadership_before_the_lease(
        self, namespace: str, client: Client, far_client: Client, proxy: TcpProxy, network: str
    ) -> None:
        me, other = (LeaderElector(c, self.config(namespace, i)) for c, i in ((far_client, "me"), (client, "other")))
        await me.acquire()
        ended: list[float] = []

        async def hold() -> None:
            with pytest.raises(LeaderLost, match="could not be renewed in time"):
                await me.hold()
            ended.append(time.monotonic())

        async with asyncio.TaskGroup() as group:
            group.create_task(hold())
            waiting = group.create_task(other.acquire())
            await asyncio.sleep(1.5)
            assert not waiting.done()
            if network == "cut":
                await proxy.cut()
            else:
                proxy.freeze()
            await waiting
            taken = time.monotonic()
            assert not me.is_leader
            assert other.is_leader
        assert ended[0] < taken

    async def test_a_slow_apiserver_does_not_unseat(self, namespace: str, far_client: Client, proxy: TcpProxy) -> None:
        patient = LeaderConfig("lease", namespace, identity="me", lease_seconds=9, renew_deadline=8.0)
        elector = LeaderElector(far_client, patient)
        await elector.acquire()
        proxy.delay = 0.5  # twice a round trip: every renewal takes a second or more
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(elector.hold(), 10)
        assert elector.is_leader

    async def test_a_deleted_lease_is_made_again(self, namespace: str, client: Client) -> None:
        elector = LeaderElector(client, self.config(namespace))
        await elector.acquire()

        async def holder() -> str | None:
            try:
                return (await client.get(LEASES, Key(namespace, "lease"))).spec.holder_identity
            except NotFound:
                return None

        async with asyncio.TaskGroup() as group:
            holding = group.create_task(elector.hold())
            await client.delete(LEASES, Key(namespace, "lease"))
            assert await eventually(holder) == "me"
            assert elector.is_leader
            holding.cancel()

    async def test_what_others_wrote_on_the_lease_stays(self, namespace: str, client: Client) -> None:
        elector = LeaderElector(client, self.config(namespace))
        await elector.acquire()
        await client.patch(LEASES, Key(namespace, "lease"), {"metadata": {"labels": {"theirs": "x"}}})
        before = await client.get(LEASES, Key(namespace, "lease"))

        async def renewed() -> bool:
            return (await client.get(LEASES, Key(namespace, "lease"))).spec.renew_time != before.spec.renew_time

        async with asyncio.TaskGroup() as group:
            holding = group.create_task(elector.hold())
            await eventually(renewed)
            holding.cancel()
        await elector.release()
        lease = await client.get(LEASES, Key(namespace, "lease"))
        assert lease.metadata.labels == {"theirs": "x"}
        assert not lease.spec.holder_identity

    async def test_a_renewal_that_was_cancelled_on_its_way_keeps_no_lease(
        self, namespace: str, client: Client, far_client: Client, proxy: TcpProxy
    ) -> None:
        """The apiserver stores it, and its answer meets nobody: the version that the process knows is an old one."""
        elector = LeaderElector(far_client, self.config(namespace))
        await elector.acquire()
        before = await client.get(LEASES, Key(namespace, "lease"))

        async def renewed() -> bool:
            return (await client.get(LEASES, Key(namespace, "lease"))).spec.renew_time != before.spec.renew_time

        async with asyncio.TaskGroup() as group:
            proxy.delay = 0.4
            holding = group.create_task(elector.hold())
            await eventually(renewed)  # its answer is still held back
            holding.cancel()
        proxy.delay = 0.0
        await elector.release()
        assert not (await client.get(LEASES, Key(namespace, "lease"))).spec.holder_identity

    async def test_the_lease_of_another_is_not_released(self, namespace: str, client: Client) -> None:
        elector = LeaderElector(client, self.config(namespace))
        await elector.acquire()
        await client.patch(LEASES, Key(namespace, "lease"), {"spec": {"holderIdentity": "thief"}})
        await elector.release()
        assert (await client.get(LEASES, Key(namespace, "lease"))).spec.holder_identity == "thief"


class TestManager:
    async def test_health_tells_of_the_work(
        self, apiserver, namespace: str, far_client: Client, proxy: TcpProxy
    ) -> None:
        manager = Manager(far_client, health_port=0, metrics_port=0)
        timings = Timings(silence=3, backoff=BackoffPolicy(base=0.1, cap=1.0))  # stuck after 9 s without an attempt
        manager.add_informer(Informer(far_client, CONFIGMAPS, namespace, timings=timings))
        await proxy.cut()

        async def ask(port: int, path: str) -> tuple[int, str]:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status, await answer.text()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(manager.run())
            await eventually(lambda: manager.metrics_port)
            status, text = await ask(manager.health_port, "/readyz")
            assert status == 503
            assert "configmaps: not listed yet" in text
            assert await ask(manager.health_port, "/healthz") == (200, "ok\n")
            await proxy.up()

            async def ready() -> bool:
                return (await ask(manager.health_port, "/readyz"))[0] == 200

            await eventually(ready, timeout=60)
            await proxy.cut()

            async def silent() -> bool:
                return "nothing heard" in (await ask(manager.health_port, "/readyz"))[1]

            await eventually(silent, timeout=60)
            assert (await ask(manager.health_port, "/healthz"))[0] == 200, "a restart would not mend the network"
            assert "kubecore_informer_objects" in (await ask(manager.metrics_port, "/metrics"))[1]
            manager.stop()
            await task

    async def test_a_kind_that_is_not_served_ends_the_start_with_its_name(self, client: Client) -> None:
        missing = Resource("kaito.sh", "v1", "nothings", "Nothing", False, ConfigMap)
        manager = Manager(client, health_port=None, metrics_port=None, sync_seconds=5)
        manager.add_informer(Informer(client, missing))
        with pytest.raises(TimeoutError, match="nothings could not be listed within 5 s: 404"):
            await manager.run()

    async def test_a_failing_task_ends_the_process(self, client: Client) -> None:
        manager = Manager(client, health_port=None, metrics_port=None)

        async def fail() -> None:
            raise RuntimeError("defect")

        manager.add_task("fails", fail)
        with pytest.raises(RuntimeError, match="defect"):
            await manager.run()

    async def test_a_drain_that_takes_too_long_is_cut_off(self, namespace: str, client: Client) -> None:
        manager = Manager(client, health_port=None, metrics_port=None, drain_seconds=0.3)
        cancelled = []

        async def reconcile(_: Key) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        controller = manager.add_controller(Controller("endless", reconcile))
        controller.enqueue(Key(namespace, "a"))
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            task = group.create_task(manager.run())
            await eventually(lambda: controller.queue.in_work)
            os.kill(os.getpid(), signal.SIGTERM)
            await task
        assert cancelled == [True]
