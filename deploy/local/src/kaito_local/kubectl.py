"""kubectl on one kubeconfig: never the ambient one."""

import json
from pathlib import Path
from typing import Any

from kaito_local.command import run


class Kubectl:
    """Runs kubectl against one cluster."""

    def __init__(self, program: Path, kubeconfig: Path, context: str | None = None) -> None:
        """Binds the program to a kubeconfig and, in a shared one, to a context."""
        self._base = (program, f"--kubeconfig={kubeconfig}", *((f"--context={context}",) if context else ()))

    async def __call__(self, *args: str | Path, stdin: str | None = None, timeout: float = 60) -> str:
        """Runs one command and returns its stdout; CommandError carries what kubectl said."""
        return await run(*self._base, *args, stdin=stdin, timeout=timeout)

    async def json(self, *args: str, timeout: float = 60) -> Any:
        """Runs one command with `-o json` and returns the decoded output."""
        return json.loads(await self(*args, "-o", "json", timeout=timeout))

    async def apply(self, *manifests: dict[str, Any] | Path, timeout: float = 60) -> None:
        """Server-side applies objects and files of objects."""
        flags = ("apply", "--server-side", "--force-conflicts", "--field-manager=kaito-local", "-f")
        objects = [manifest for manifest in manifests if isinstance(manifest, dict)]
        if objects:
            bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
            await self(*flags, "-", stdin=bundle, timeout=timeout)
        for path in (manifest for manifest in manifests if isinstance(manifest, Path)):
            await self(*flags, path, timeout=timeout)
