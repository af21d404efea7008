"""The local OCI registry: Debian's docker-registry, plain http, with a data folder of its own, recorded by pid."""

import asyncio
import shutil
import socket
from pathlib import Path

import aiohttp

from kaito_local.errors import LocalError
from kaito_local.processes import Process, ProcessTable, alive, log_tail

# Not 5000: there the registry of the Debian package listens when systemd starts it.
DEFAULT_PORT = 5050
_START_TIMEOUT = 30.0
_PROGRAMS = ("docker-registry", "registry")  # Debian's name, and that of the project's own releases

_CONFIG = """version: 0.1
log:
  level: warn
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {data}
  delete:
    enabled: true
http:
  addr: {address}
"""

_AUTH = """auth:
  htpasswd:
    realm: kaito-local
    path: {passwords}
"""


class Registry:
    """One registry process on one address of this machine.

    Anybody who reaches the address can write to it: so it listens on the one address that the cluster's pods use and on
    no other.
    """

    def __init__(
        self, state_dir: Path, address: str = "127.0.0.1", port: int = DEFAULT_PORT, htpasswd: str = ""
    ) -> None:
        """``htpasswd`` is a line of such a file, with a bcrypt hash: then only that user may pull and push."""
        self._state_dir = state_dir
        self._htpasswd = htpasswd
        self._processes = ProcessTable(state_dir)
        self.host = f"{address}:{port}"

    async def up(self) -> str:
        """Start it, or take over the running one; returns its ``host:port``."""
        process = self._processes.get("registry") or self._start()
        await self._wait_ready(process)
        return self.host

    async def down(self) -> None:
        """End it and remove its data. Nothing running is not an error."""
        await self._processes.stop_all()
        shutil.rmtree(self._state_dir, ignore_errors=True)

    def _start(self) -> Process:
        program = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
        if program is None:
            raise LocalError("no OCI registry program is installed: apt-get install docker-registry")
        self._check_free()
        data = self._state_dir / "data"
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = self._state_dir / "config.yaml"
        text = _CONFIG.format(data=data, address=self.host)
        if self._htpasswd:
            passwords = self._state_dir / "htpasswd"
            passwords.write_text(f"{self._htpasswd}\n")
            text += _AUTH.format(passwords=passwords)
        config.write_text(text)
        return self._processes.start("registry", [program, "serve", config])

    def _check_free(self) -> None:
        """Somebody else's registry at our address would answer in ours' place."""
        address, _, port = self.host.rpartition(":")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, int(port)))
            except OSError as error:
                raise LocalError(f"the local registry cannot listen on {self.host}: {error.strerror}") from error

    async def _wait_ready(self, process: Process) -> None:
        """Return when it answers. It tells nobody when it is ready, so this asks, ten times a second."""
        url = f"http://{self.host}/v2/"
        async with asyncio.timeout(_START_TIMEOUT), aiohttp.ClientSession() as session:
            while not await _answers(session, url):
                if not alive(process):
                    raise LocalError(f"the registry ended while starting on {self.host}:\n{log_tail(process)}")
                await asyncio.sleep(0.1)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=2)) as response:
            return response.status in {200, 401}  # a registry with passwords answers too
    except (aiohttp.ClientError, TimeoutError):
        return False
