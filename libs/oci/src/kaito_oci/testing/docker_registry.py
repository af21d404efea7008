"""The CNCF distribution registry (Debian's `docker-registry`) on a port of 127.0.0.1, with storage that goes away with it."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

USER, PASSWORD = "packer", "correct horse"
HTPASSWD = "packer:$2b$04$AuZYHnamagT3LhRc3Ef0NeTQ/UH3xD2CQcBokYx4Khx.HlxhYctWe\n"
_START_SECONDS = 20.0


class DockerRegistry:
    """A running registry."""

    def __init__(self, host: str, storage: Path, process: Process) -> None:
        self.host = host
        self.storage = storage
        self._process = process

    def dockerconfigjson(self, username: str = USER, password: str = PASSWORD) -> bytes:
        """A pull Secret's document for this registry."""
        auth = base64.b64encode(f"{username}:{password}".encode()).decode()
        return json.dumps({"auths": {self.host: {"auth": auth}}}).encode()

    def blob_path(self, digest: str) -> Path:
        """Where the registry keeps a blob."""
        algorithm, _, value = digest.partition(":")
        return self.storage / "docker/registry/v2/blobs" / algorithm / value[:2] / value / "data"

    async def stop(self) -> None:
        """Stop the process and wait for it."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self._process.wait(), _START_SECONDS)


@asynccontextmanager
async def docker_registry(
    folder: Path, *, password: bool = False, port: int = 0, read_only: bool = False
) -> AsyncIterator[DockerRegistry]:
    """Start one with its data under `folder`; with `password`, only USER may come in."""
    program = shutil.which("docker-registry")
    if program is None:
        raise RuntimeError("the tests need Debian's docker-registry: apt-get install docker-registry")
    port = port or _free_port()
    config = folder / "registry.json"
    config.write_text(json.dumps(_config(folder, port, password=password, read_only=read_only)))
    process = await asyncio.create_subprocess_exec(program, "serve", str(config), stdout=DEVNULL, stderr=DEVNULL)
    registry = DockerRegistry(f"127.0.0.1:{port}", folder / "data", process)
    try:
        await asyncio.wait_for(_listening(port, process), _START_SECONDS)
        yield registry
    finally:
        await registry.stop()


def _config(folder: Path, port: int, *, password: bool, read_only: bool) -> dict[str, object]:
    (folder / "data").mkdir(exist_ok=True)
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "data")},
            "delete": {"enabled": True},
            "maintenance": {"readonly": {"enabled": read_only}},
        },
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if password:
        htpasswd = folder / "htpasswd"
        htpasswd.write_text(HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
    return config


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _listening(port: int, process: Process) -> None:
    while process.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)  # a process that starts sends no event
            continue
        writer.close()
        return
    raise RuntimeError(f"docker-registry ended with code {process.returncode}")
