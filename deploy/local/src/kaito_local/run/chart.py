"""Installs the umbrella chart with Helm, or brings the installed release to these values."""

import asyncio
import json
from pathlib import Path
from typing import Any

from kaito_local.binaries import ensure
from kaito_local.command import run
from kaito_local.errors import CommandError, LocalError
from kaito_local.images.inputs import key, tree_digest
from kaito_local.images.values import image_values
from kaito_local.kubectl import Kubectl
from kaito_local.locations import REPOSITORY

RELEASE = "kaito"
NAMESPACE = "kaito-system"
CHART = REPOSITORY / "deploy" / "charts" / "kaito"
LOCAL_PROFILE = CHART / "profiles" / "local.yaml"
_TIMEOUT = 300.0


class Helm:
    """Helm on one cluster, never the ambient one."""

    def __init__(self, program: Path, kubeconfig: Path | None, context: str | None = None) -> None:
        self._base: tuple[str | Path, ...] = (program,)
        if kubeconfig:
            self._base += ("--kubeconfig", kubeconfig)
        if context:
            self._base += ("--kube-context", context)

    async def __call__(self, *arguments: str | Path, stdin: str | None = None) -> str:
        """Run one command and return its stdout."""
        return await run(*self._base, *arguments, stdin=stdin, timeout=_TIMEOUT)


async def helm(kubeconfig: Path | None, context: str | None = None) -> Helm:
    """Helm, built on first use."""
    return Helm((await ensure(("helm",)))["helm"], kubeconfig, context)


async def install(program: Helm, kubectl: Kubectl, values: dict[str, Any]) -> None:
    """Bring the release to the local profile and ``values``, and wait until the controllers are ready."""
    await release(program, kubectl, values)
    names = await kubectl("get", "deployments", "-n", NAMESPACE, "-o", "name", "-l", "app.kubernetes.io/part-of=kaito")
    for name in names.split():
        try:
            await kubectl("rollout", "status", name, "-n", NAMESPACE, "--timeout=180s", timeout=190)
        except CommandError:
            pods = await kubectl.json("get", "pods", "-n", NAMESPACE)
            raise LocalError(f"{name} does not become available:\n{waits(pods['items'])}") from None


async def release(program: Helm, kubectl: Kubectl, values: dict[str, Any]) -> None:
    """Install the release, or upgrade one that differs; one that is as it should be stays without a new revision."""
    await kubectl.apply(_namespace())
    text = json.dumps(values, sort_keys=True)
    inputs = await asyncio.to_thread(_inputs, text)
    if await _stands(program, kubectl, inputs):
        return
    target = (RELEASE, CHART, "--namespace", NAMESPACE, "--description", inputs)
    # Values come through stdin: nothing of them in the process list.
    await program("upgrade", "--install", *target, "--values", LOCAL_PROFILE, "--values", "-", stdin=text)


def _inputs(values: str) -> str:
    """A name for what a release is made of: the chart, with the folders that it has by link, and the values."""
    linked = sorted(path.resolve() for path in CHART.rglob("*") if path.is_symlink())
    return key("inputs", tree_digest([CHART, *linked]), values)


async def _stands(program: Helm, kubectl: Kubectl, inputs: str) -> bool:
    """Whether the release was made of exactly these inputs, and its objects still are as it says."""
    try:
        release = json.loads(await program("status", RELEASE, "--namespace", NAMESPACE, "--output", "json"))
        if (release["info"]["status"], release["info"]["description"]) != ("deployed", inputs):
            return False
        flags = ("--server-side", "--force-conflicts", "--field-manager=helm", "--namespace", NAMESPACE)
        await kubectl("diff", *flags, "-f", "-", stdin=release["manifest"])
    except CommandError:
        # No release, or an object that somebody changed. If anything else is wrong, an upgrade says it.
        return False
    return True


def waits(pods: list[dict[str, Any]]) -> str:
    """What the pods that are not ready wait for, a line each."""
    lines = []
    for pod in pods:
        status = pod.get("status", {})
        words = [
            f"{state['reason']}: {state.get('message', '')}"
            for container in status.get("containerStatuses", [])
            for kind, state in container.get("state", {}).items()
            if kind != "running" and state.get("reason")
        ]
        words += [
            condition.get("message", "")
            for condition in status.get("conditions", [])
            if condition["type"] == "PodScheduled" and condition["status"] != "True"
        ]
        if words:
            lines.append(f"  {pod['metadata']['name']}: {'; '.join(words)}")
    return "\n".join(lines) or "  its pods give no reason: look at their logs with kubectl logs"


def local_values(
    images: dict[str, str],
    registry: str,
    claim_api: str,
    *,
    node_selector: dict[str, str] | None = None,
    plain_http: bool = True,
    adapter_registry: str = "",
    data_host: str = "",
) -> dict[str, Any]:
    """The values of a local installation: image references by service, the registry, the kind of claim.

    ``node_selector`` keeps the controllers on the operator's own node. ``adapter_registry`` is a second registry without
    TLS, ``data_host`` the HOST:PORT that training data may come from.
    """
    host = registry.partition("/")[0]
    plain_hosts = [host] if plain_http else []
    values = image_values(images)
    controller = values["workspace-controller"]
    controller["nodeSelector"] = {"kubernetes.io/os": "linux", **(node_selector or {})}
    controller["settings"] |= {
        "presetRegistry": f"{registry}/presets",
        "plainHttpHosts": [*plain_hosts, *([adapter_registry] if adapter_registry else [])],
        "claimApi": claim_api,
    }
    controller["settings"]["tuning"]["dataHosts"] = [data_host] if data_host else []
    return values


def _namespace() -> dict[str, Any]:
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": levels}}
