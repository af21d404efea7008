"""Programs that are run to their end: with a deadline, output captured, failure as an error."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from kaito_local.errors import CommandError, LocalError


async def run(
    *argv: str | Path,
    stdin: str | bytes | Path | None = None,
    timeout: float = 60,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    accept: frozenset[int] = frozenset({0}),
) -> str:
    """Runs a program and returns its stdout; `stdin` is text to feed, or a file to read from.

    Raises CommandError on an exit status outside `accept`, LocalError when `timeout` seconds pass or there is no such
    program.
    """
    words = tuple(str(word) for word in argv)
    source = stdin.open("rb") if isinstance(stdin, Path) else None
    feed = stdin.encode() if isinstance(stdin, str) else stdin if isinstance(stdin, bytes) else None
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=source or (asyncio.subprocess.PIPE if feed is not None else asyncio.subprocess.DEVNULL),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **env} if env else None,
        )
    except FileNotFoundError as error:
        raise LocalError(f"{words[0]} is not installed") from error
    finally:
        if source:
            source.close()
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate(feed)
    except TimeoutError as error:
        raise LocalError(f"{' '.join(words[:6])} did not end within {timeout:.0f} s") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode not in accept:
        raise CommandError(words, process.returncode or 0, err.decode(errors="replace") or out.decode(errors="replace"))
    return out.decode(errors="replace")


async def succeeds(*argv: str) -> bool:
    """Whether a program ends with status 0."""
    try:
        await run(*argv)
    except CommandError:
        return False
    return True
