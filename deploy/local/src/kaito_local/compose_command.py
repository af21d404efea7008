"""`kaito-local compose`: the integration tests against containers, from nothing and back to nothing."""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from kaito_local.binaries import ensure
from kaito_local.command import run
from kaito_local.compose.docker import Compose, compose_command, follow, image_size, obstacles
from kaito_local.compose.images import images, missing
from kaito_local.compose.selection import pytest_arguments
from kaito_local.compose.settings import PORTS, environment, write_settings
from kaito_local.compose.stack import SETTING
from kaito_local.controlplane import ControlPlane
from kaito_local.errors import CommandError, LocalError
from kaito_local.images.build import image_store
from kaito_local.kubectl import Kubectl
from kaito_local.ports import free_ports
from kaito_local.processes import start_time
from kaito_local.progress import phase, say
from kubecore.testing.asserts import eventually

_PREFIX = "kaito-compose-"
_VARIABLES = "variables.env"
_HEALTHY_TIMEOUT = 180.0


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands of this module."""
    parser = subparsers.add_parser("compose", help="integration tests against docker-compose.test.yaml")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("images", help="make and load the containers' images").set_defaults(command=make_images)
    test = actions.add_parser("test", help="images, containers, tests, and everything away again")
    test.add_argument(
        "arguments", nargs="*", metavar="PYTEST-ARGUMENT", help="after --; the whole selection by default"
    )
    test.set_defaults(command=run_tests)


async def make_images(args: argparse.Namespace) -> int:
    """Prints setting, image and size (MB, unpacked) of each."""
    await _check()
    for setting, image in (await images(image_store(), os.environ)).items():
        print(f"{setting}={image}  # {await image_size(image) / 1e6:.0f} MB")
    return 0


async def run_tests(args: argparse.Namespace) -> int:
    """Returns pytest's status; 143 after SIGTERM, with everything taken down."""
    await _check()
    task = asyncio.current_task()
    assert task is not None
    terminated = asyncio.Event()

    def terminate() -> None:
        terminated.set()
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    try:
        await _sweep()
        chosen = await images(image_store(), os.environ)
        async with _running(chosen) as stack_file:
            words = [sys.executable, "-m", "pytest", "-q", *(args.arguments or pytest_arguments())]
            return await follow(*words, env={SETTING: str(stack_file)})
    except asyncio.CancelledError:
        if not terminated.is_set():
            raise
        return 143


async def _check() -> None:
    """LocalError with everything that is missing, before anything is made."""
    found = [*await obstacles(os.environ), *missing(os.environ, os.geteuid())]
    if found:
        raise LocalError("the containers cannot be run here:\n" + "\n".join(f"  - {each}" for each in found))


@asynccontextmanager
async def _running(chosen: dict[str, str]) -> AsyncIterator[Path]:
    """The containers, healthy and with the CRDs, while the block runs; yields the file for the test fixtures."""
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-{start_time(os.getpid())}-"))
    compose: Compose | None = None
    try:
        programs = await ensure(("healthcheck", "kubectl"))
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        stack = write_settings(folder, ports)
        variables = environment(folder, programs["healthcheck"], ports, chosen)
        (folder / _VARIABLES).write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
        compose = await _compose(folder)
        with phase("containers up and healthy"):
            await _up(compose)
        with phase("CRDs"):
            kubectl = Kubectl(programs["kubectl"], Path(stack.kubeconfig))
            await ControlPlane(folder).install_crds(kubectl)
        yield folder / "stack.json"
    finally:
        with phase("containers away"):
            if compose:
                await compose.down()
            shutil.rmtree(folder)


async def _compose(folder: Path) -> Compose:
    words = await compose_command()
    if words is None:
        raise LocalError("there is no Docker Compose any more")
    return Compose(words, folder.name, folder / _VARIABLES)


async def _up(compose: Compose) -> None:
    """Starts everything and returns when all are healthy; LocalError with the logs of those that are not."""
    try:
        await compose("up", "--detach", "--no-build")
        # Compose 1 cannot wait for what nothing depends on.
        await eventually(lambda: _healthy(compose), timeout=_HEALTHY_TIMEOUT, interval=0.5)
    except AssertionError:
        raise LocalError(f"not healthy after {_HEALTHY_TIMEOUT:.0f} s:\n{await _logs(compose)}") from None
    except CommandError as error:
        raise LocalError(f"{error}\n{await _logs(compose)}") from error


async def _healthy(compose: Compose) -> bool:
    """Whether every container is; LocalError for one that has ended or will not be."""
    states = await compose.states()
    lost = {service: state for service, state in states.items() if state not in {"healthy", "starting", "created"}}
    if lost:
        raise LocalError(f"containers failed: {lost}\n{await _logs(compose)}")
    return set(states.values()) == {"healthy"}


async def _logs(compose: Compose) -> str:
    """The last lines of the containers that are not healthy."""
    states = await compose.states()
    ill = sorted(service for service, state in states.items() if state != "healthy")
    return await compose("logs", "--no-color", "--tail", "20", *ill) if ill else ""


async def _sweep() -> None:
    """Removes what a killed run left: its folder carries the pid and start time of its process."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid, started = folder.name.removeprefix(_PREFIX).split("-")[:2]
        if str(start_time(int(pid))) == started:
            continue
        if (folder / _VARIABLES).exists():
            say(f"  removing what a killed run left: {folder.name}")
            await (await _compose(folder)).down()
        await run("rm", "-rf", folder)
