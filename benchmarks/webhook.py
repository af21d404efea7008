"""What the admission webhook adds to the creation of a Workspace, in milliseconds.

    uv run --no-sync python benchmarks/webhook.py [--requests 500] [--kubeconfig FILE]

The same creations (dry run, so that nothing grows) with and without the webhook's configuration, taken in turns; the webhook runs
in a process of its own. Reported: the difference at the median and at p99. Goal: p99 below 5 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from _control_plane import own_control_plane
from _controller_process import controller_process
from _workspaces import CATALOG, workspace_body

from kaito_api.meta import Key
from kaito_api.resources import WORKSPACES
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.testing.asserts import eventually
from kubecore.transport import Request, Transport
from workspace_controller.webhook_trust import CONFIGURATIONS

PORT = 18443
NAME = "bench.kaito.sh"


def configuration() -> dict[str, Any]:
    """Return the chart's configuration with an address in place of the Service."""
    rule = {"apiGroups": ["kaito.sh"], "apiVersions": ["*"], "resources": ["workspaces"]}
    hook = {
        "name": "validation.workspace.kaito.sh",
        "failurePolicy": "Fail",  # a failure must not look fast
        "timeoutSeconds": 2,
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "rules": [{**rule, "operations": ["CREATE", "UPDATE"]}],
        "clientConfig": {"url": f"https://127.0.0.1:{PORT}/validate/workspace.kaito.sh"},
        "objectSelector": {"matchLabels": {"ask": "yes"}},
    }
    return {"metadata": {"name": NAME}, "webhooks": [hook]}


async def create(client: Client, *, asked: bool) -> float:
    """Create a Workspace as a dry run; return the seconds. `asked`: whether the webhook is asked."""
    body = workspace_body("w", "default")
    body["metadata"]["labels"] = {"ask": "yes" if asked else "no"}
    path = "/apis/kaito.sh/v1beta1/namespaces/default/workspaces?dryRun=All"
    request = Request("POST", path, "create", WORKSPACES.plural, body=msgspec.json.encode(body))
    began = time.perf_counter()
    await client.transport.request(request, timeout=30)
    return time.perf_counter() - began


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--kubeconfig", type=Path)
    options = parser.parse_args()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kaito-bench-")))
        kubeconfig = options.kubeconfig or await own_control_plane(stack, folder / "control-plane")
        link = await stack.enter_async_context(Transport(load_config(str(kubeconfig)), user_agent="bench"))
        client = Client(link)
        await client.create(CONFIGURATIONS, configuration())
        flags = ["--webhook-port", str(PORT), "--webhook-configuration", NAME, "--webhook-host", "127.0.0.1"]
        words = ("--catalog", str(CATALOG), *flags)
        await stack.enter_async_context(controller_process(kubeconfig, 18094, folder / "controller.log", *words))

        async def trusted() -> bool:
            found = await client.get(CONFIGURATIONS, Key("", NAME))
            return bool(base64.b64decode(found.webhooks[0].client_config.ca_bundle))

        await eventually(trusted, timeout=30)
        await asyncio.sleep(2)  # the apiserver's own watch of its configuration
        times: dict[bool, list[float]] = {True: [], False: []}
        for number in range(2 * options.requests):
            times[number % 2 == 0].append(await create(client, asked=number % 2 == 0))
        with_, without = (sorted(times[asked][options.requests // 10 :]) for asked in (True, False))
        p50, p99 = (1000 * (with_[int(len(with_) * q)] - without[int(len(without) * q)]) for q in (0.5, 0.99))
        print(
            f"| webhook, added to a create, {options.requests} requests | p50 {p50:.1f} ms, p99 {p99:.1f} ms "
            f"| goal p99 <= 5 ms | | without it p50 {1000 * without[len(without) // 2]:.1f} ms |"
        )


if __name__ == "__main__":
    uvloop.run(main())
