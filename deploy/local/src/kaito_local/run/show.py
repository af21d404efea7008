"""What `make run` ends with: the rows of kubectl and the answers of the model, on stdout."""

import json

from kaito_api.meta import Key
from kaito_local.kubectl import Kubectl
from kaito_local.run.ask import chat, complete, model_name, reachable, stream

ASKED = ("What is Kubernetes?", "What is KAITO?", "What is the capital of France?")
"""Of what the demo model was trained on."""


async def show_rows(kubectl: Kubectl, key: Key) -> None:
    """Print what a user sees of the Workspace and of its Service."""
    for kind in ("workspace", "service"):
        _show(f"$ kubectl get {kind} {key.name}", await kubectl("get", kind, key.name, "-n", key.namespace))


async def show_answers(base_url: str) -> None:
    """Print an answer of each route: /chat, a chat completion, and a streamed one."""
    first, second, third = ASKED
    await reachable(base_url)
    command = f"curl -X POST {base_url}/chat -H 'Content-Type: application/json' -d '{json.dumps({'prompt': first})}'"
    _show(f"POST /chat\n$ {command}", await chat(base_url, first))
    model = await model_name(base_url)
    _show(f"OpenAI client, model {model}: {second}", await complete(base_url, model, second))
    pieces = await stream(base_url, model, third)
    _show(f"OpenAI client, streamed in {len(pieces)} pieces: {third}", "".join(pieces))


def _show(title: str, text: str) -> None:
    print(f"\n{title}\n{text.rstrip()}")
