"""What the second act needs outside the cluster: a registry with a password for adapters, and a host that serves the data."""

import asyncio
import base64
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import aiohttp

from kaito_local.demo_data.rows import FILE, data_set
from kaito_local.errors import LocalError
from kaito_local.locations import state_root
from kaito_local.processes import ProcessTable, alive, log_tail
from kaito_local.registry import Registry

REGISTRY_PORT = 5051
DATA_PORT = 5060
SECRET = "adapter-registry"
_USER, _PASSWORD = "demo", "otter"
HTPASSWD = "demo:$2b$04$McH7g4idB4/GIdLy.nH6NOThwAlxteGShKYCzppg6.JbR4Ujnbjx."
_START_TIMEOUT = 30.0


def adapter_registry(address: str) -> Registry:
    """The registry for adapters: who has no password may neither pull nor push."""
    return Registry(state_root() / "adapter-registry", address, REGISTRY_PORT, HTPASSWD)


def secret(registry: str, namespace: str) -> dict[str, Any]:
    """The Secret with that password, as `kubectl create secret docker-registry` makes it."""
    auth = base64.b64encode(f"{_USER}:{_PASSWORD}".encode()).decode()
    document = json.dumps({"auths": {registry: {"username": _USER, "password": _PASSWORD, "auth": auth}}})
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": namespace},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": document},
    }


async def serve_data(address: str) -> str:
    """Serve the demo's data set over http on this machine, or take over the running host; returns the URL."""
    folder = _folder() / "files"
    folder.mkdir(parents=True, exist_ok=True)
    await asyncio.to_thread((folder / FILE).write_bytes, data_set())
    words = (sys.executable, "-m", "http.server", DATA_PORT, "--bind", address, "--directory", folder)
    process = ProcessTable(_folder()).start("data", [str(word) for word in words])
    url = f"http://{address}:{DATA_PORT}/{FILE}"
    async with asyncio.timeout(_START_TIMEOUT), aiohttp.ClientSession() as session:
        # It tells nobody when it is ready, so this asks, ten times a second.
        while not await _answers(session, url):
            if not alive(process):
                raise LocalError(f"the host of the data ended while starting:\n{log_tail(process)}")
            await asyncio.sleep(0.1)
    return url


async def stop(address: str = "127.0.0.1") -> None:
    """End both and remove what they hold. Nothing running is not an error."""
    await ProcessTable(_folder()).stop_all()
    await asyncio.to_thread(shutil.rmtree, _folder(), ignore_errors=True)
    await adapter_registry(address).down()


def _folder() -> Path:
    return state_root() / "demo-data"


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.head(url, timeout=aiohttp.ClientTimeout(total=2)) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
