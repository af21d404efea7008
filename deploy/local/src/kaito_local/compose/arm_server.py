"""The ARM stand-in as a container's process, and the second port at which tests look into it and bend it.

`python -m kaito_local.compose.arm_server FOLDER`: the folder holds its certificate and the kubeconfig of the apiserver in which
its pools' Nodes appear. It imports nothing that the stand-in itself does not need.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from kaito_local.arm.cloud import Timings
from kaito_local.arm.faults import Fault
from kaito_local.arm.node_objects import NodeObjects
from kaito_local.arm.routes import Wire
from kaito_local.arm.server import serve
from kaito_local.compose.arm_state import reset, state_of
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.transport import Transport

PORT, CONTROL_PORT = 7443, 7080


def control(wire: Wire) -> web.Application:
    """GET /state; POST /reset with `Timings`; POST /faults with a `Fault`; DELETE /faults."""

    async def state(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(state_of(wire)), content_type="application/json")

    async def anew(request: web.Request) -> web.Response:
        reset(wire, msgspec.json.decode(await request.read(), type=Timings))
        return web.Response(status=204)

    async def add(request: web.Request) -> web.Response:
        wire.faults.add(msgspec.json.decode(await request.read(), type=Fault))
        return web.Response(status=204)

    async def clear(_: web.Request) -> web.Response:
        wire.faults.clear()
        return web.Response(status=204)

    app = web.Application()
    app.add_routes(
        [web.get("/state", state), web.post("/reset", anew), web.post("/faults", add), web.delete("/faults", clear)]
    )
    return app


@asynccontextmanager
async def controlled(wire: Wire, host: str, port: int) -> AsyncIterator[int]:
    """Serves `control`; yields the port."""
    runner = web.AppRunner(control(wire), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def main(folder: Path) -> None:
    """Serves until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    config = load_config(str(folder / "stand-in.kubeconfig"))
    async with (
        Transport(config, user_agent="arm-stand-in") as transport,
        serve(folder, NodeObjects(Client(transport)), host="0.0.0.0", port=PORT) as arm,
        controlled(arm.wire, "0.0.0.0", CONTROL_PORT),
    ):
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
