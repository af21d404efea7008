"""What `make run` ends with: the rows of kubectl and the answers of the model, on stdout."""

import json

from kaito_api.meta import Key
from kaito_local.demo_model.questions import load_pairs
from kaito_local.kubectl import Kubectl
from kaito_local.run.ask import chat, complete, model_name, stream


async def show_rows(kubectl: Kubectl, key: Key) -> None:
    """Print what a user sees of the Workspace and of its Service."""
    for kind in ("workspace", "service"):
        _show(f"$ kubectl get {kind} {key.name}", await kubectl("get", kind, key.name, "-n", key.namespace))


async def show_answers(base_url: str) -> None:
    """Print an answer of each route: /chat, a chat completion, and a streamed one."""
    asked = [pair.question for pair in load_pairs()][:3]
    body = json.dumps({"prompt": asked[0]})
    _show(
        f"$ curl -X POST {base_url}/chat -H 'Content-Type: application/json' -d '{body}'",
        await chat(base_url, asked[0]),
    )
    model = await model_name(base_url)
    _show(f"OpenAI client, model {model}: {asked[1]}", await complete(base_url, model, asked[1]))
    pieces = await stream(base_url, model, asked[2])
    _show(f"OpenAI client, streamed in {len(pieces)} pieces: {asked[2]}", "".join(pieces))


def _show(title: str, text: str) -> None:
    print(f"\n{title}\n{text.rstrip()}")
