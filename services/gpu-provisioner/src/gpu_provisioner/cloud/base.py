"""What the provisioner needs of a cloud that makes machines in pools."""

from __future__ import annotations

from typing import Any, Protocol

from gpu_provisioner.pools.plan import CloudPool


class AgentPools(Protocol):
    """The agent pools of one cluster. No call waits for the end of the operation that it starts.

    Every method raises CloudError with a classified failure.
    """

    async def put(self, name: str, body: dict[str, Any], *, replaces: CloudPool | None) -> None:
        """Creates the pool, or changes the one that `replaces` shows: a conflict where the cloud has another state."""

    async def delete(self, name: str) -> bool:
        """Starts the deletion; False when there is no such pool."""

    async def delete_machines(self, name: str, machines: tuple[str, ...]) -> None:
        """Starts the removal of these machines."""

    async def get(self, name: str) -> CloudPool | None:
        """The pool, None when it does not exist."""

    async def list(self) -> list[CloudPool]:
        """All pools of the cluster, every page, or an error: never a part."""

    async def machines(self, name: str) -> frozenset[str]:
        """Names of the pool's machines: what is missing may be there all the same."""

    async def has_machine(self, name: str, machine: str) -> bool:
        """Whether this very machine of the pool exists."""
