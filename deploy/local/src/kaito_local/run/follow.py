"""Follows a Workspace until it serves or has trained: watches it, its claims and its pods, and says in words what happens."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from kaito_api import labels
from kaito_api.core import Pod
from kaito_api.meta import Key
from kaito_api.resources import MACHINES, NODECLAIMS, PODS, WORKSPACES
from kaito_api.workspace import Workspace
from kaito_local.errors import LocalError
from kaito_local.progress import say
from kaito_local.run.story import Claim, complaint, is_ready, is_trained, sentences
from kubecore.client import Client
from kubecore.config import ClusterConfig
from kubecore.informer import Informer
from kubecore.transport import Transport

Done = Callable[[Workspace, Sequence[Pod], Sequence[Claim]], bool]
"""Whether the Workspace, with its pods and claims, has come where it should. May raise LocalError."""


class Follower:
    """One Workspace under watch."""

    def __init__(self, client: Client, key: Key, done: Done) -> None:
        self._key = key
        self._done = done
        mine = f"{labels.WORKSPACE}={key.name},{labels.WORKSPACE_NAMESPACE}={key.namespace}"
        self._workspaces = Informer(client, WORKSPACES, key.namespace, field_selector=f"metadata.name={key.name}")
        self._nodeclaims = Informer(client, NODECLAIMS, label_selector=mine)
        self._machines = Informer(client, MACHINES, label_selector=mine)
        self._pods = Informer(client, PODS, key.namespace, label_selector=f"{labels.WORKSPACE}={key.name}")
        self._changed = asyncio.Event()
        self._said: set[str] = set()

    async def until_done(self, timeout: float) -> Workspace:
        """Return the Workspace when it is done; LocalError with what its status says after ``timeout`` seconds."""
        informers = (self._workspaces, self._nodeclaims, self._machines, self._pods)
        async with asyncio.TaskGroup() as group:
            watches = [group.create_task(informer.run()) for informer in informers]
            for informer in informers:
                informer.add_handler(lambda _: self._changed.set())
                await informer.wait_synced(30)
            try:
                async with asyncio.timeout(timeout):
                    return await self._listen()
            except TimeoutError:
                why = complaint(self._workspaces.get(self._key), self._pods.list())
                raise LocalError(f"Workspace {self._key} is not done after {timeout:.0f} s:\n{why}") from None
            finally:
                for watch in watches:
                    watch.cancel()

    async def _listen(self) -> Workspace:
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
            if workspace is not None and self._done(workspace, self._pods.list(), claims):
                return workspace
            await self._changed.wait()


async def follow(config: ClusterConfig, key: Key, image: str, timeout: float) -> Workspace:
    """Watch one Workspace of a cluster until it serves with this image of the model server."""
    return await _follow(config, key, lambda workspace, pods, _: is_ready(workspace, pods, image), timeout)


async def follow_tuning(config: ClusterConfig, key: Key, timeout: float) -> Workspace:
    """Watch one Workspace until its adapter is pushed and its node is given back; LocalError when the tuning fails."""
    return await _follow(config, key, lambda workspace, _, claims: is_trained(workspace) and not claims, timeout)


async def _follow(config: ClusterConfig, key: Key, done: Done, timeout: float) -> Workspace:
    logging.getLogger("kubecore").setLevel(logging.ERROR)
    async with Transport(config, user_agent="kaito-local") as transport:
        try:
            return await Follower(Client(transport), key, done).until_done(timeout)
        except* LocalError as group:
            raise group.exceptions[0] from None
