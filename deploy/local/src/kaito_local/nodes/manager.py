"""Nodes that come and go: a real kubelet and containerd each, in a slot of this machine."""

import asyncio
import fcntl
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from kaito_local import marker, network
from kaito_local.binaries import ensure
from kaito_local.errors import CommandError, LocalError
from kaito_local.images.store import seed, template_version
from kaito_local.kubectl import Kubectl
from kaito_local.nodes import cgroups, kubelet, mounts
from kaito_local.nodes.containerd import SANDBOX_IMAGE, Containerd
from kaito_local.nodes.slot import LAST_SLOT, SYSTEM_SLOT, NodeSpec, Slot
from kaito_local.processes import ProcessTable, must_stay_alive
from kaito_local.scratch_image import write_scratch_image

_READY_TIMEOUT = 180.0  # 13 s on idle cores
_DRAIN_TIMEOUT = 120.0
_PINNED = {"io.cri-containerd.pinned": "pinned"}


class NodeManager:
    """Starts and stops the nodes of one local cluster. Any process may hold one: what runs is recorded in the slots."""

    def __init__(
        self,
        cluster_dir: Path,
        addresses: network.Network,
        pki: Path,
        kubeconfig: Path,
        url: Callable[[], str],
    ) -> None:
        """Binds to a cluster's state folder; `url` gives the apiserver's address once there is one."""
        self._cluster_dir = cluster_dir
        self._addresses = addresses
        self._pki = pki
        self._kubeconfig = kubeconfig
        self._url = url

    def slot(self, number: int) -> Slot:
        """The place of that number."""
        return Slot(self._cluster_dir, self._addresses, number)

    def nodes(self) -> dict[str, Slot]:
        """The nodes that live now, by name."""
        found = {}
        for number in range(SYSTEM_SLOT, LAST_SLOT + 1):
            slot = self.slot(number)
            if node := slot.node():
                found[node.name] = slot
        return found

    async def start(self, spec: NodeSpec, timeout: float = _READY_TIMEOUT, ready: bool = True) -> Slot:
        """Starts a node and returns when it is Ready, with its labels and GPUs; a node that lives already is taken over.

        With `ready` false it returns as soon as the Node object is there. Raises LocalError when the cluster is not ours,
        when no slot is free or when the node is not there in time.
        """
        kubectl = await self._kubectl()
        await marker.require_ours(kubectl)
        slot = await self._occupy(spec)
        try:
            async with _locked(slot.folder / "lock"):
                await self._start(kubectl, slot, spec, timeout)
            if ready:
                wait = ("wait", f"node/{spec.name}", "--for=condition=Ready", f"--timeout={timeout:.0f}s")
                await kubectl(*wait, timeout=timeout + 10)
        except CommandError as error:
            log = slot.folder / "logs" / "kubelet.log"
            raise LocalError(f"the node {spec.name} is not there after {timeout:.0f} s; see {log}: {error}") from error
        return slot

    async def stop(self, name: str, drain: bool = True) -> None:
        """Drains the node, ends it and deletes its Node object; its slot keeps the images. No such node is not an error."""
        kubectl = await self._kubectl()
        await marker.require_ours(kubectl)
        if slot := self.nodes().get(name):
            async with _locked(slot.folder / "lock"):
                if drain and ProcessTable(slot.folder).get("kubelet"):
                    await self._drain(kubectl, name, slot)
                await self.end(slot)
        await kubectl("delete", "node", name, "--ignore-not-found", "--wait=false")

    async def end(self, slot: Slot) -> None:
        """Ends whatever lives in the slot without asking the cluster: processes, mounts, interfaces, cgroups, folders."""
        await ProcessTable(slot.folder).stop("kubelet")
        await Containerd(slot).down()
        await cgroups.remove(slot.cgroup)
        await mounts.undo(slot.folder)
        await network.remove_link(slot.bridge)
        if slot.number != SYSTEM_SLOT:
            await network.remove_node_address(self._addresses, slot.number)
        kubelet.remove_traces(slot)
        await asyncio.to_thread(shutil.rmtree, slot.run, True)
        slot.vacate()

    async def prepare(self, slot: Slot) -> Containerd:
        """Makes the slot's address and containerd ready, the sandbox image included."""
        await network.add_node_address(self._addresses, slot.number)
        containerd = Containerd(slot)
        if not containerd.running:
            await _seed(slot)
        await containerd.up()
        if SANDBOX_IMAGE not in await containerd.images():
            program = (await ensure(("pause",)))["pause"]
            archive = slot.run / "pause.tar"
            write_scratch_image(archive, SANDBOX_IMAGE, program)
            await containerd.import_image(archive, labels=_PINNED)
            archive.unlink()
        return containerd

    async def import_image(self, archive: Path, slot_number: int = SYSTEM_SLOT + 1) -> list[str]:
        """Imports an image archive into a slot, whether a node lives there or not; by default the first pool node's."""
        containerd = await self.prepare(self.slot(slot_number))
        return await containerd.import_image(archive)

    async def _start(self, kubectl: Kubectl, slot: Slot, spec: NodeSpec, timeout: float) -> None:
        """Starts containerd and kubelet and waits for the Node object, which then gets its labels and GPUs."""
        if not ProcessTable(slot.folder).get("kubelet"):
            # A Node whose kubelet is gone says Ready for most of a minute, and its GPUs would be reset at registration.
            await kubectl("delete", "node", spec.name, "--ignore-not-found")
        await self.prepare(slot)
        cgroups.create(slot.cgroup)
        program = (await ensure(("kubelet",)))["kubelet"]
        process = kubelet.start(
            program=program, slot=slot, spec=spec, network=self._addresses, pki=self._pki, url=self._url()
        )
        async with must_stay_alive(process):
            await kubectl(
                "wait", f"node/{spec.name}", "--for=create", f"--timeout={timeout:.0f}s", timeout=timeout + 10
            )
        await self._complete(kubectl, spec)

    async def _kubectl(self) -> Kubectl:
        return Kubectl((await ensure(("kubectl",)))["kubectl"], self._kubeconfig)

    async def _occupy(self, spec: NodeSpec) -> Slot:
        """The node's slot, or the first free one; two processes never get the same."""
        async with _locked(self._cluster_dir / "slots.lock"):
            if slot := self.nodes().get(spec.name):
                return slot
            first = SYSTEM_SLOT if spec.pool == marker.SYSTEM_POOL else SYSTEM_SLOT + 1
            for number in range(first, LAST_SLOT + 1):
                slot = self.slot(number)
                if slot.node() is None:
                    slot.occupy(spec)
                    return slot
        raise LocalError(f"{LAST_SLOT} nodes run on this machine already")

    async def _complete(self, kubectl: Kubectl, spec: NodeSpec) -> None:
        """Sets what a kubelet may not say of itself: reserved labels, and the GPUs that this machine only pretends to have."""
        labels = [f"{key}={value}" for key, value in spec.labels.items() if not kubelet.may_label_itself(key)]
        if labels:
            await kubectl("label", "node", spec.name, "--overwrite", *labels)
        if spec.gpus:
            count = {"nvidia.com/gpu": str(spec.gpus)}
            patch = json.dumps({"status": {"capacity": count, "allocatable": count}})
            await kubectl("patch", "node", spec.name, "--subresource=status", "--type=merge", "-p", patch)

    async def _drain(self, kubectl: Kubectl, name: str, slot: Slot) -> None:
        """Evicts the pods, then deletes those of DaemonSets too, and waits until the kubelet has taken all of them down."""
        flags = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={_DRAIN_TIMEOUT:.0f}s")
        with suppress(CommandError):  # an eviction that a budget refuses must not keep a node that is to be deleted
            await kubectl("drain", name, *flags, timeout=_DRAIN_TIMEOUT + 10)
        left = ("delete", "pods", "--all-namespaces", f"--field-selector=spec.nodeName={name}", "--timeout=30s")
        with suppress(CommandError):
            await kubectl(*left)
        with suppress(TimeoutError):  # what the kubelet has not taken down by then is ended by force
            async with asyncio.timeout(10):
                while await Containerd(slot).containers():  # noqa: ASYNC110 - a process's state, not this loop's
                    await asyncio.sleep(0.2)


async def _seed(slot: Slot) -> None:
    """Fills the slot with the images of the template, again when these have changed since; else it keeps what it has."""
    stamp = slot.folder / "seeded"
    version = template_version()
    if slot.containerd_root.exists() and (version is None or (stamp.exists() and stamp.read_text() == version)):
        return
    await asyncio.to_thread(shutil.rmtree, slot.containerd_root, True)
    if version and await seed(slot.containerd_root):
        stamp.write_text(version)


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield
