"""The user's Docker: found, asked whether it answers, and Compose, of either generation."""

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from kaito_local.command import run
from kaito_local.errors import CommandError, LocalError
from kaito_local.locations import REPOSITORY

COMPOSE_FILE = REPOSITORY / "docker-compose.test.yaml"
_DOCKER = "docker"


async def obstacles(environ: Mapping[str, str]) -> list[str]:
    """What keeps this machine from running containers, a sentence each; empty when nothing does."""
    found = []
    host = environ.get("DOCKER_HOST", "unix://")
    if not host.startswith("unix://"):
        found.append(
            f"DOCKER_HOST is {host}: files are mounted and 127.0.0.1 is used, so the daemon must be on this machine"
        )
    if shutil.which(_DOCKER) is None:
        found.append("there is no `docker` command: install Docker (Debian: apt-get install docker.io docker-compose)")
        return found
    try:
        await run(_DOCKER, "version", "--format", "{{.Server.Version}}", timeout=30)
    except LocalError as error:
        reason = error.output.strip().splitlines()[-1:] if isinstance(error, CommandError) else [str(error)]
        found.append(
            f"the Docker daemon does not answer ({''.join(reason)}): start it (systemctl start docker, as root: dockerd),"
            " join its group, or set DOCKER_HOST to its socket"
        )
    if await compose_command() is None:
        found.append("there is neither `docker compose` nor `docker-compose`: install one (Debian: docker-compose)")
    return found


async def compose_command() -> tuple[str, ...] | None:
    """The words that start Compose: version 2 when it is there, else version 1."""
    for words in ((_DOCKER, "compose"), ("docker-compose",)):
        if shutil.which(words[0]) is not None:
            try:
                await run(*words, "version", timeout=30)
            except CommandError:
                continue
            return words
    return None


class Compose:
    """docker-compose.test.yaml as one project, with its variables in a file."""

    def __init__(self, words: tuple[str, ...], project: str, variables: Path) -> None:
        """`words` from `compose_command`; `variables` as NAME=value lines."""
        self.project = project
        self._words = (*words, "--project-name", project, "--file", str(COMPOSE_FILE), "--env-file", str(variables))

    async def __call__(self, *args: str, timeout: float = 300) -> str:
        """Runs one command of Compose and returns its stdout."""
        return await run(*self._words, *args, timeout=timeout)

    async def states(self) -> dict[str, str]:
        """Per service: "healthy", "starting", "unhealthy", or the container's status when it does not run."""
        label = f"label=com.docker.compose.project={self.project}"
        found = (await run(_DOCKER, "ps", "--all", "--quiet", "--filter", label)).split()
        if not found:
            return {}
        form = '{{index .Config.Labels "com.docker.compose.service"}} {{.State.Status}} {{.State.Health.Status}}'
        lines = (await run(_DOCKER, "inspect", "--format", form, *found)).splitlines()
        rows = [line.split() for line in lines]
        return {service: health if status == "running" else status for service, status, health in rows}

    async def down(self) -> None:
        """Removes containers, networks and volumes of the project, and nothing else."""
        await self("down", "--volumes", "--remove-orphans", "--timeout", "5", timeout=180)


async def has_image(reference: str) -> bool:
    """Whether the daemon has the image."""
    try:
        await run(_DOCKER, "image", "inspect", "--format", "{{.Id}}", reference)
    except CommandError:
        return False
    return True


async def load(archive: Path, reference: str) -> None:
    """Gives the daemon an image, and forgets older builds of the same name that no container uses."""
    await run(_DOCKER, "load", "--quiet", "--input", archive, timeout=600)
    name, _, tag = reference.rpartition(":")
    for other in (await run(_DOCKER, "image", "ls", name, "--format", "{{.Tag}}")).split():
        if other != tag:
            await _forget(f"{name}:{other}")


async def _forget(reference: str) -> None:
    try:
        await run(_DOCKER, "image", "rm", reference)
    except CommandError as error:
        if "conflict" not in error.output:  # a container of another run uses it
            raise


async def image_size(reference: str) -> int:
    """Its size in bytes, unpacked."""
    return int(await run(_DOCKER, "image", "inspect", "--format", "{{.Size}}", reference))


async def follow(*argv: str, env: Mapping[str, str], grace: float = 10) -> int:
    """Runs a program on this terminal and returns its status.

    When cancelled it is asked to end, and killed after `grace` seconds: services under test catch SIGTERM in its process.
    """
    process = await asyncio.create_subprocess_exec(*argv, env={**os.environ, **env}, cwd=REPOSITORY)
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(grace):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
