"""The CNCF distribution registry (Debian's `docker-registry`) on a port of 127.0.0.1, with storage that goes away with it.

With $KAITO_TEST_STACK (a file that `make test-compose` writes) it is one of the containers that run already, emptied before use.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

USER, PASSWORD = "packer", "correct horse"
HTPASSWD = "packer:$2b$04$AuZYHnamagT3LhRc3Ef0NeTQ/UH3xD2CQcBokYx4Khx.HlxhYctWe\n"
_START_SECONDS = 60.0
_STACK = "KAITO_TEST_STACK"
_OWN = f"this test needs a registry of its own, not a container of {_STACK}"


class DockerRegistry:
    """A running registry. `ca` is the authority to trust when it speaks TLS; a container's process is not ours to stop."""

    def __init__(
        self,
        host: str,
        storage: Path,
        process: Process | None = None,
        *,
        login: tuple[str, str] = (USER, PASSWORD),
        ca: Path | None = None,
    ) -> None:
        self.host = host
        self.storage = storage
        self.ca = ca
        self._process = process
        self._login = login

    def dockerconfigjson(self, username: str | None = None, password: str | None = None) -> bytes:
        """A pull Secret's document for this registry; by default with the login that it accepts."""
        user, right = self._login
        auth = base64.b64encode(f"{username or user}:{password or right}".encode()).decode()
        return json.dumps({"auths": {self.host: {"auth": auth}}}).encode()

    def blob_path(self, digest: str) -> Path:
        """Where the registry keeps a blob."""
        algorithm, _, value = digest.partition(":")
        return self.storage / "docker/registry/v2/blobs" / algorithm / value[:2] / value / "data"

    async def stop(self) -> None:
        """Stop the process and wait for it."""
        if self._process is None:
            raise RuntimeError(_OWN)
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self._process.wait(), _START_SECONDS)


@asynccontextmanager
async def docker_registry(
    folder: Path, *, password: bool = False, tls: bool = False, port: int = 0, read_only: bool = False
) -> AsyncIterator[DockerRegistry]:
    """Start one with its data under `folder`; with `password`, only USER may come in; with `tls`, `ca` vouches for it."""
    if os.environ.get(_STACK):
        if port or read_only:
            raise RuntimeError(_OWN)
        yield _container("password" if password else "tls" if tls else "open")
        return
    program = shutil.which("docker-registry")
    if program is None:
        raise RuntimeError("the tests need Debian's docker-registry: apt-get install docker-registry")
    port = port or _free_port()
    config = _config(folder, port, password=password, read_only=read_only)
    ca = _encrypt(folder, config) if tls else None
    (folder / "registry.json").write_text(json.dumps(config))
    words = (program, "serve", str(folder / "registry.json"))
    process = await asyncio.create_subprocess_exec(*words, stdout=DEVNULL, stderr=DEVNULL)
    registry = DockerRegistry(f"127.0.0.1:{port}", folder / "data", process, ca=ca)
    try:
        await asyncio.wait_for(_listening(port, process), _START_SECONDS)
        yield registry
    finally:
        await registry.stop()


def _container(kind: str) -> DockerRegistry:
    place = json.loads(Path(os.environ[_STACK]).read_text())["registries"][kind]
    storage = Path(place["storage"])
    for left in storage.iterdir():
        shutil.rmtree(left)
    login, ca = (place.get("username", ""), place.get("password", "")), place.get("ca")
    return DockerRegistry(place["host"], storage, login=login, ca=Path(ca) if ca else None)


def _encrypt(folder: Path, config: dict[str, Any]) -> Path:
    """Adds a certificate of an authority of its own to the configuration; returns the authority's file."""
    import trustme  # of the test group only

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(folder / "registry.key")
    certificate.cert_chain_pems[0].write_to_path(folder / "registry.crt")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    config["http"]["tls"] = {"certificate": str(folder / "registry.crt"), "key": str(folder / "registry.key")}
    return folder / "ca.crt"


def _config(folder: Path, port: int, *, password: bool, read_only: bool) -> dict[str, Any]:
    (folder / "data").mkdir(exist_ok=True)
    config: dict[str, Any] = {
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
