"""A process for the hand-over tests: a Manager with one leader-only task, which prints what it does with a monotonic time.

Arguments: kubeconfig, namespace, identity.
"""

from __future__ import annotations

import asyncio
import sys
import time

from kaito_api.meta import Key
from kaito_api.resources import CONFIGMAPS
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.controller import Controller
from kubecore.informer import Informer
from kubecore.leader import LeaderConfig
from kubecore.manager import Manager
from kubecore.transport import Transport


def say(what: str) -> None:
    sys.stdout.write(f"{what} {time.monotonic()}\n")
    sys.stdout.flush()


async def main() -> None:
    kubeconfig, namespace, identity = sys.argv[1:4]
    async with Transport(load_config(kubeconfig), user_agent=identity) as transport:
        client = Client(transport)
        leader = LeaderConfig("candidate", namespace, identity=identity)
        manager = Manager(client, health_port=0, metrics_port=None, leader=leader)
        informer = manager.add_informer(Informer(client, CONFIGMAPS, namespace))

        async def reconcile(key: Key) -> None:
            say(f"begin {key.name}")
            await asyncio.sleep(0.5)
            await client.patch(CONFIGMAPS, key, {"data": {"by": identity}})
            say(f"end {key.name}")

        controller = manager.add_controller(Controller("candidate", reconcile))
        informer.add_handler(lambda event: controller.enqueue(event.key) if event.old is None else None)

        async def lead() -> None:
            say("leading")
            await asyncio.Event().wait()

        async def started() -> None:
            say("started")

        manager.add_task("started", started, leader_only=False)
        manager.add_task("lead", lead)
        await manager.run()
        say("stopped")


asyncio.run(main())
