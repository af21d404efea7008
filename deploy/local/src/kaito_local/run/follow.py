"""Follows a Workspace until it serves: watches it, its claims and its pods, and says in words what happens."""

import asyncio
import logging

from kaito_api import labels
from kaito_api.meta import Key
from kaito_api.resources import MACHINES, NODECLAIMS, PODS, WORKSPACES
from kaito_local.errors import LocalError
from kaito_local.progress import say
from kaito_local.run.story import Claim, complaint, is_ready, sentences
from kubecore.client import Client
from kubecore.config import ClusterConfig
from kubecore.informer import Informer
from kubecore.transport import Transport


class Follower:
    """One Workspace under watch."""

    def __init__(self, client: Client, key: Key, image: str) -> None:
        self._key = key
        self._image = image
        mine = f"{labels.WORKSPACE}={key.name},{labels.WORKSPACE_NAMESPACE}={key.namespace}"
        self._workspaces = Informer(client, WORKSPACES, key.namespace, field_selector=f"metadata.name={key.name}")
        self._nodeclaims = Informer(client, NODECLAIMS, label_selector=mine)
        self._machines = Informer(client, MACHINES, label_selector=mine)
        self._pods = Informer(client, PODS, key.namespace, label_selector=f"{labels.WORKSPACE}={key.name}")
        self._changed = asyncio.Event()
        self._said: set[str] = set()

    async def until_ready(self, timeout: float) -> None:
        """Return when the Workspace serves; LocalError with what its status says after ``timeout`` seconds."""
        informers = (self._workspaces, self._nodeclaims, self._machines, self._pods)
        async with asyncio.TaskGroup() as group:
            watches = [group.create_task(informer.run()) for informer in informers]
            for informer in informers:
                informer.add_handler(lambda _: self._changed.set())
                await informer.wait_synced(30)
            try:
                async with asyncio.timeout(timeout):
                    await self._listen()
            except TimeoutError:
                why = complaint(self._workspaces.get(self._key), self._pods.list())
                raise LocalError(f"Workspace {self._key} does not serve after {timeout:.0f} s:\n{why}") from None
            finally:
                for watch in watches:
                    watch.cancel()

    async def _listen(self) -> None:
        clock = asyncio.get_running_loop()
        began = clock.time()
        while True:
            self._changed.clear()
            workspace = self._workspaces.get(self._key)
            claims: list[Claim] = [*self._nodeclaims.list(), *self._machines.list()]
            for sentence in sentences(workspace, claims, self._pods.list()):
                if sentence not in self._said:
                    self._said.add(sentence)
                    say(f"  {clock.time() - began:6.1f} s  {sentence}")
            if is_ready(workspace, self._pods.list(), self._image):
                return
            await self._changed.wait()


async def follow(config: ClusterConfig, key: Key, image: str, timeout: float) -> None:
    """Watch one Workspace of a cluster until it serves with this image of the model server."""
    logging.getLogger("kubecore").setLevel(logging.ERROR)
    async with Transport(config, user_agent="kaito-local") as transport:
        try:
            await Follower(Client(transport), key, image).until_ready(timeout)
        except* LocalError as group:
            raise group.exceptions[0] from None
