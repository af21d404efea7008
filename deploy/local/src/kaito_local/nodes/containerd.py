"""A node's containerd: its own root, state, socket, CNI network and runc folder."""

import asyncio
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from kaito_local.command import run
from kaito_local.errors import CommandError, LocalError
from kaito_local.host import cni_folder, may_lower_oom_score
from kaito_local.nodes.slot import Slot
from kaito_local.processes import Process, ProcessTable, end, must_stay_alive, start_time

NAMESPACE = "k8s.io"
"""containerd's namespace of everything that Kubernetes made."""

SANDBOX_IMAGE = "kaito.local/pause:1"

_START_TIMEOUT = 60.0
_IMPORT_TIMEOUT = 1200.0  # 140 s for 6 GB on idle cores

_CONFIG = """version = 2
root = "{root}"
state = "{run}/containerd"
# Exporters, and snapshotters of file systems that this machine does not have, only fill the log.
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox_image}"
  restrict_oom_score_adj = {restrict_oom_score}
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{run}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{run}/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{certs_d}"
"""


class Containerd:
    """The containerd of one slot."""

    def __init__(self, slot: Slot) -> None:
        """Starts nothing yet."""
        self._slot = slot
        self._processes = ProcessTable(slot.folder)
        self._ctr = ("ctr", "--address", str(slot.socket), "--namespace", NAMESPACE)

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self._processes.get("containerd") is not None

    async def up(self) -> None:
        """Starts it, or takes over the running one; returns when it answers."""
        if self.running:
            return
        slot = self._slot
        program, plugins = shutil.which("containerd"), cni_folder()
        if not program or not plugins:
            raise LocalError("containerd or its CNI plugins are not installed")
        for folder in (slot.containerd_root, slot.run / "cni" / "net.d", slot.certs_d):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (slot.run / "cni" / "net.d" / "10-kaito.conflist").write_text(json.dumps(_cni(slot)))
        config = slot.run / "containerd.toml"
        config.write_text(
            _CONFIG.format(
                root=slot.containerd_root,
                run=slot.run,
                socket=slot.socket,
                sandbox_image=SANDBOX_IMAGE,
                restrict_oom_score=str(not may_lower_oom_score()).lower(),
                cni_bin=plugins,
                certs_d=slot.certs_d,
            )
        )
        slot.socket.unlink(missing_ok=True)
        await self._wait_answers(self._processes.start("containerd", [program, "--config", config]))

    async def down(self) -> None:
        """Ends every container, then containerd itself and what shims may be left; images stay."""
        if self.running:
            with suppress(CommandError, LocalError):
                await self.remove_containers()
        await self._processes.stop("containerd")
        for shim in _shims(self._slot.socket):
            await end(shim, grace=1)

    async def images(self) -> set[str]:
        """The names of the images that it has."""
        return set((await run(*self._ctr, "images", "list", "-q")).split())

    async def import_image(self, archive: Path, labels: Mapping[str, str] | None = None) -> list[str]:
        """Unpacks the images of an archive (OCI layout or docker-archive, a tar); returns the names that were new."""
        before = await self.images()
        await run(*self._ctr, "images", "import", archive, timeout=_IMPORT_TIMEOUT)
        new = sorted(
            name for name in await self.images() - before if "@" not in name and not name.startswith("sha256:")
        )
        for name in new if labels else ():
            await run(*self._ctr, "images", "label", name, *(f"{key}={value}" for key, value in (labels or {}).items()))
        return new

    async def containers(self) -> list[str]:
        """The ids of all containers, sandboxes included."""
        return (await run(*self._ctr, "containers", "list", "-q")).split()

    async def remove_containers(self) -> None:
        """Kills and removes every container; its snapshot goes with it."""
        for container in await self.containers():
            with suppress(CommandError):
                await run(*self._ctr, "tasks", "delete", "--force", container)
            with suppress(CommandError):
                await run(*self._ctr, "containers", "delete", container)

    async def _wait_answers(self, process: Process) -> None:
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT
        async with must_stay_alive(process):
            while not await self._answers():
                if asyncio.get_running_loop().time() > deadline:
                    raise LocalError(f"containerd did not answer within {_START_TIMEOUT:.0f} s; see {process.log}")
                await asyncio.sleep(0.1)  # nothing announces that it answers

    async def _answers(self) -> bool:
        if not self._slot.socket.exists():
            return False
        try:
            await run(*self._ctr, "version")
        except CommandError:
            return False
        return True


def _cni(slot: Slot) -> dict[str, object]:
    """The node's pod network: a bridge of its own; addresses are not translated within the cluster."""
    bridge = {
        "type": "bridge",
        "bridge": slot.bridge,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": slot.pod_subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(slot.run / "cni" / "addresses"),
        },
    }
    return {"cniVersion": "0.4.0", "name": slot.cni_network, "plugins": [bridge]}


def _shims(socket: Path) -> list[Process]:
    """The shims that serve this containerd: they carry its socket in their arguments, and nobody else's do."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if os.fsencode(socket) in words and b"containerd-shim" in words[0]:
                pid = int(folder.name)
                found.append(Process(name="containerd-shim", pid=pid, started=start_time(pid) or 0, log=""))
    return found
