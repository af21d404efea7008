"""Adapters hot-loaded from a registry into real vLLM, driven by a Workspace on a real kube-apiserver."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import psutil
import pytest

from kaito_local.pytest_plugin import ApiServer, run_apart, temporary_namespace
from kaito_oci.testing.docker_registry import HTPASSWD, PASSWORD, USER

if TYPE_CHECKING:
    from conftest import PushImage, ServerProcess

pytestmark = [pytest.mark.engine, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

MODEL = "phi-tiny"
QUESTION = "What is a workspace?"
POD = "phi-0"


class Registry:
    """Debian's docker-registry, stopped and started by the test."""

    def __init__(self, folder: Path, port: int, *, password: bool = False) -> None:
        folder.mkdir(exist_ok=True)
        self._config = folder / "registry.yaml"
        self.host = f"127.0.0.1:{port}"
        auth = ""
        if password:
            (folder / "htpasswd").write_text(HTPASSWD)
            auth = f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}\n"
        self._config.write_text(
            f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '{self.host}'}}\n{auth}"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("docker-registry")
        assert program is not None
        self._process = subprocess.Popen([program, "serve", str(self._config)], stderr=subprocess.DEVNULL)
        wait_for(self._answers, 60, "registry")

    def pause(self) -> None:
        """Take requests and answer none, until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.host, timeout=2)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status in {200, 401}
        except OSError:
            return False
        finally:
            connection.close()


class Stack:
    """A Workspace, its pod and its server."""

    def __init__(self, apiserver: ApiServer, namespace: str, registry: Registry, folder: Path, model: Path) -> None:
        self.apiserver = apiserver
        self.namespace = namespace
        self.registry = registry
        self.folder = folder
        self.model = model
        self.server: ServerProcess
        self.locked: Registry

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return run_apart(self.apiserver.kubectl("-n", self.namespace, *arguments, stdin=stdin))

    def want(self, *adapters: dict[str, Any], annotations: dict[str, str] | None = None) -> None:
        """Edit the Workspace: these adapters and no others."""
        patch = {
            "metadata": {"annotations": annotations or {}},
            "inference": {"adapters": [adapter_spec(**adapter) for adapter in adapters]},
        }
        self.kubectl("patch", "workspace", "phi", "--type=merge", "-p", json.dumps(patch))

    def report(self, name: str) -> dict[str, Any]:
        pod = json.loads(self.kubectl("get", "pod", POD, "-o", "json"))
        text = pod["metadata"].get("annotations", {}).get("kaito.sh/report.model-server", "{}")
        return next((item for item in json.loads(text).get("adapters", []) if item["name"] == name), {})

    def serves(self, name: str, image: str, strength: str = "1") -> dict[str, Any]:
        """Wait until the report says that this very version is Ready; return its part.

        The strength and the image alone are there as soon as the server begins with them, and the state alone may be that of
        the version before.
        """
        found: dict[str, Any] = wait_for(
            lambda: (
                (r := self.report(name)).get("state") == "Ready"
                and (r["image"], r["strength"]) == (image, strength)
                and r
            ),
            60,
            f"{name} is {image} at {strength}",
        )
        return found

    def loads(self) -> float:
        """How many versions the server has begun to serve since it started."""
        name = 'kaito_adapter_load_seconds_count{phase="total"} '
        found = [line for line in self.server.get("/metrics")[1].splitlines() if line.startswith(name)]
        return float(found[0].removeprefix(name)) if found else 0.0

    def models(self) -> set[str]:
        return {card["id"] for card in json.loads(self.server.get("/v1/models")[1])["data"]}

    def ask(self, model: str = MODEL, **body: Any) -> tuple[int, dict[str, Any]]:
        request = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            headers = {"content-type": "application/json"}
            content = json.dumps(request | {"temperature": 0, "min_tokens": 16} | body)
            connection.request("POST", "/v1/chat/completions", content, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def stream_fault(self, model: str, tokens: int) -> str:
        """Ask for a stream of exactly `tokens` and read it to its end; returns what is wrong with it, or ""."""
        body = stream_request(model, tokens)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            return stream_fault(answer.read(), model, tokens) if answer.status == 200 else answer.read().decode()
        finally:
            connection.close()

    def text(self, model: str = MODEL) -> str:
        status, answer = self.ask(model)
        assert status == 200, answer
        assert answer["model"] == model
        content: str = answer["choices"][0]["message"]["content"]
        return content


def adapter_spec(name: str, image: str, strength: str = "1.0", secrets: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"source": {"name": name, "image": image, "imagePullSecrets": list(secrets)}, "strength": strength}


def stream_request(model: str, tokens: int, **more: Any) -> str:
    """The body of a chat that streams exactly `tokens`, and at the end says how many they were."""
    messages = [{"role": "user", "content": QUESTION}]
    options = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(
        {"model": model, "messages": messages, "max_tokens": tokens, "min_tokens": tokens} | options | more
    )


def stream_fault(raw: bytes, model: str, tokens: int, answers: int = 1) -> str:
    """What is wrong with a streamed chat, or "": an error in it, another name, no end, tokens that are missing."""
    *events, done, rest = raw.decode().split("\n\n")
    if (done, rest) != ("data: [DONE]", ""):
        return f"does not end with [DONE]: {raw[-300:]!r}"
    finished, used = [], None
    for event in events:
        chunk = json.loads(event.removeprefix("data: "))
        if "error" in chunk:
            return f"an error inside: {event}"
        if chunk["model"] != model:
            return f"another name: {event}"
        finished += [choice["finish_reason"] for choice in chunk["choices"] if choice.get("finish_reason")]
        used = chunk.get("usage") or used
    if finished != ["length"] * answers or used is None or used["completion_tokens"] != tokens * answers:
        return f"finished {finished}, used {used}"
    return ""


def wait_for(condition: Any, seconds: float, what: str) -> Any:
    """Another process decides when: there is nothing to await."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    pytest.fail(f"not within {seconds} s: {what}")


@pytest.fixture(scope="module")
def stack(
    apiserver: ApiServer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, server_factory: Any, a_port: Any
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("hotload")
    registry = Registry(folder, a_port())
    registry.start()
    locked = Registry(folder / "locked", a_port(), password=True)
    locked.start()
    with temporary_namespace(apiserver) as namespace:
        made = Stack(apiserver, namespace, registry, folder, tiny_model)
        made.locked = locked
        factory = server_factory(folder)
        try:
            made.server = serve(made, factory)
            yield made
        finally:
            factory.close()
            registry.stop()
            locked.stop()


def serve(made: Stack, factory: Any) -> ServerProcess:
    """Makes the Workspace and the pod that the server belongs to, and starts it."""
    namespace = made.namespace
    workspace = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "phi", "namespace": namespace},
        "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "phi"}}},
        "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": namespace},
        "spec": {"containers": [{"name": "model-server", "image": "none"}], "automountServiceAccountToken": False},
    }
    made.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [workspace, pod]}))
    return start(made, factory)


def start(stack: Stack, factory: Any) -> ServerProcess:
    server: ServerProcess = factory.start(
        stack.model,
        *(
            "--workspace",
            f"{stack.namespace}/phi",
            "--plain-http",
            stack.registry.host,
            "--plain-http",
            stack.locked.host,
        ),
        *("--adapter-store", str(stack.folder / "store")),
        engine=("--enable-lora", "--max-loras=4", "--max-lora-rank=16", "--max-model-len=1024", "--max-num-seqs=64"),
        env={"KUBECONFIG": str(stack.apiserver.kubeconfig), "POD_NAME": POD, "POD_NAMESPACE": stack.namespace},
    )
    server.wait_ready()
    return server


@pytest.fixture(scope="module")
def images(stack: Stack, adapter_maker: Any, push: PushImage) -> dict[str, str]:
    """Image references by name: two good adapters, and one of each bad kind."""
    made = {
        "one": adapter_maker(stack.folder / "one", stack.model, seed=1),
        "two": adapter_maker(stack.folder / "two", stack.model, seed=2),
        "rank": adapter_maker(stack.folder / "rank", stack.model, seed=3, rank=64),
        "shape": adapter_maker(stack.folder / "shape", stack.model, seed=4, hidden=64),
        "dora": adapter_maker(stack.folder / "dora", stack.model, seed=5),
        "mild": adapter_maker(stack.folder / "mild", stack.model, seed=6, size=0.1),
    }
    config = made["dora"] / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))

    async def push_all() -> dict[str, str]:
        return {name: await push_adapter(push, stack, folder, name) for name, folder in made.items()}

    return asyncio.run(push_all())


async def push_adapter(push: PushImage, stack: Stack, folder: Path, tag: str) -> str:
    reference = f"{stack.registry.host}/adapters/test:{tag}"
    files = {f"data/{name}": folder / name for name in ("adapter_config.json", "adapter_model.safetensors")}
    await push(reference, files)
    return reference


def test_added_changed_and_removed_without_a_restart(stack: Stack, images: dict[str, str]) -> None:
    base = stack.text()
    stack.want({"name": "legal", "image": images["one"]})
    begun = time.monotonic()
    wait_for(lambda: stack.ask("legal")[0] == 200, 60, "adapter served")
    print(f"edit seen -> first answer: {time.monotonic() - begun:.3f} s")
    assert stack.models() == {MODEL, "legal"}
    full = stack.text("legal")
    assert full != base
    assert stack.text() == base
    assert stack.serves("legal", images["one"])["digest"].startswith("sha256:")

    stack.want({"name": "legal", "image": images["one"], "strength": "0"})
    stack.serves("legal", images["one"], "0")
    assert stack.text("legal") == base

    stack.want({"name": "legal", "image": images["one"], "strength": "0.5"})
    stack.serves("legal", images["one"], "0.5")
    half = stack.text("legal")
    assert half not in (base, full)

    stack.want({"name": "legal", "image": images["one"], "strength": "1"}, {"name": "tax", "image": images["two"]})
    wait_for(lambda: stack.models() == {MODEL, "legal", "tax"}, 60, "second adapter")
    wait_for(lambda: stack.text("legal") == full, 60, "strength back at 1")
    assert stack.text("tax") not in (base, full)

    stack.want()
    wait_for(lambda: stack.models() == {MODEL}, 60, "adapters gone")
    status, answer = stack.ask("legal")
    assert (status, answer["error"]["code"]) == (404, 404)
    wait_for(lambda: not list((stack.folder / "store" / "versions").iterdir()), 60, "folders removed")
    wait_for(lambda: stack.report("legal") == {}, 60, "report emptied")


def test_answers_carry_public_names_only(stack: Stack, images: dict[str, str]) -> None:
    stack.want({"name": "legal", "image": images["one"], "strength": "0.5"})
    stack.serves("legal", images["one"], "0.5")
    request = {"model": "legal", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", stack.server.port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(request), {"content-type": "application/json"})
    raw = connection.getresponse().read().decode()
    connection.request("POST", "/chat", json.dumps({"prompt": QUESTION, "adapter": "legal", "max_tokens": 4}))
    simple = json.loads(connection.getresponse().read())
    connection.close()
    assert '"model":"legal"' in raw
    assert simple["model"] == "legal"
    assert "legal@" not in raw + json.dumps(simple) + stack.server.get("/v1/models")[1]
    metrics = stack.server.get("/metrics")[1]
    assert 'kaito_adapter_requests_total{adapter="legal",outcome="2xx"}' in metrics
    assert 'kaito_adapter_state{adapter="legal"' in metrics


@pytest.mark.parametrize(
    ("image", "strength", "reason", "words"),
    [
        ("rank", "1", "RankTooHigh", "16"),
        ("shape", "1", "WrongBaseModel", "another model"),
        ("dora", "1", "MethodUnsupported", "DoRA"),
        ("absent", "1", "NotFound", "adapter-packager push"),
    ],
)
def test_what_cannot_be_served_says_why_and_leaves_the_rest_alone(
    stack: Stack, images: dict[str, str], image: str, strength: str, reason: str, words: str
) -> None:
    stack.want({"name": "legal", "image": images["one"]})
    stack.serves("legal", images["one"])
    good = stack.text("legal")
    bad = images.get(image, f"{stack.registry.host}/adapters/test:{image}")
    stack.want({"name": "legal", "image": bad, "strength": strength}, {"name": "tax", "image": bad})
    report = wait_for(
        lambda: (r := stack.report("tax")).get("state") == "Failed" and r["image"] == bad and r, 60, "failure"
    )
    assert report["reason"] == reason
    assert words in report["message"]
    replaced = wait_for(
        lambda: (r := stack.report("legal")).get("state") == "Failed" and r["image"] == bad and r, 60, "failure"
    )
    assert "still served" in replaced["message"]
    assert stack.text("legal") == good
    status, answer = stack.ask("tax")
    assert (status, answer["error"]["param"]) == (404, "model")
    assert f"`tax` is not served (Failed, {reason})" in answer["error"]["message"]
    assert answer["error"]["message"].endswith(f"Served here: the model `{MODEL}`, the adapter `legal`.")


def test_an_adapter_on_its_way_is_503_and_a_client_that_asks_again_is_answered(
    stack: Stack, images: dict[str, str]
) -> None:
    client = openai.OpenAI(base_url=f"{stack.server.url}/v1", api_key="none", max_retries=20, timeout=60)
    answers: list[Any] = []
    line = 'kaito_adapter_requests_total{adapter="late",outcome="5xx"} '

    def refused() -> int:
        found = [text for text in stack.server.get("/metrics")[1].splitlines() if text.startswith(line)]
        return int(float(found[0].removeprefix(line))) if found else 0

    patient = threading.Thread(
        target=lambda: answers.append(client.completions.create(model="late", prompt=QUESTION, max_tokens=1))
    )
    stack.registry.pause()
    try:
        stack.want({"name": "late", "image": images["two"]})
        wait_for(lambda: stack.ask("late")[0] == 503, 60, "the server knows of it")
        connection = http.client.HTTPConnection("127.0.0.1", stack.server.port, timeout=60)
        connection.request("POST", "/chat", json.dumps({"prompt": QUESTION, "adapter": "late"}))
        answer = connection.getresponse()
        said = json.loads(answer.read())
        connection.close()
        assert (answer.status, answer.getheader("retry-after")) == (503, "3")
        assert "`late` is not served yet (Pending): ask again" in said["error"]["message"]
        assert said == stack.ask("late")[1]
        before = refused()
        patient.start()
        wait_for(lambda: refused() > before, 60, "a refusal")
    finally:
        stack.registry.resume()
    patient.join(120)
    assert [item.model for item in answers] == ["late"]
    stack.want()


def test_a_moved_tag_is_seen_when_an_annotation_changes(stack: Stack, images: dict[str, str], push: PushImage) -> None:
    reference = asyncio.run(push_adapter(push, stack, stack.folder / "one", "moving"))
    stack.want({"name": "legal", "image": reference})
    first = stack.serves("legal", reference)
    asyncio.run(push_adapter(push, stack, stack.folder / "two", "moving"))
    stack.want({"name": "legal", "image": reference}, annotations={"kaito.sh/refresh": uuid.uuid4().hex})
    wait_for(lambda: stack.report("legal").get("digest") not in (None, first["digest"]), 60, "new digest")


def secret(stack: Stack, name: str, password: str) -> None:
    login = base64.b64encode(f"{USER}:{password}".encode()).decode()
    config = json.dumps({"auths": {stack.locked.host: {"auth": login}}})
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": stack.namespace},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config},
    }
    stack.kubectl("apply", "-f", "-", stdin=json.dumps(body))


def test_a_private_registry_needs_the_adapter_s_own_secret(stack: Stack, images: dict[str, str]) -> None:
    """The registry is empty; what counts is how far the login comes: refused, absent, or as far as `not found`."""
    image = f"{stack.locked.host}/team/adapter:1"
    secret(stack, "wrong", "guess")
    secret(stack, "right", PASSWORD)
    expected = {"none": ("Unauthorized", ()), "bad": ("Unauthorized", ("wrong",)), "good": ("NotFound", ("right",))}
    expected["late"] = ("WaitingForAccess", ("not-yet",))
    stack.want(*({"name": name, "image": image, "secrets": secrets} for name, (_, secrets) in expected.items()))
    for name, (reason, _) in expected.items():
        found = wait_for(lambda name=name: (r := stack.report(name)).get("state") == "Failed" and r, 60, name)
        assert found["reason"] == reason, found
    assert PASSWORD not in stack.server.log.read_text()
    stack.want()


def stream_pieces(stack: Stack, model: str, tokens: int, begun: threading.Event | None = None) -> tuple[int, str]:
    """Ask for a stream of exactly `tokens`; returns the status and the text."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "stream": True, "temperature": 0}
    connection = http.client.HTTPConnection("127.0.0.1", stack.server.port, timeout=120)
    try:
        content = json.dumps(body | {"max_tokens": tokens, "min_tokens": tokens})
        connection.request("POST", "/v1/chat/completions", content, {"content-type": "application/json"})
        answer = connection.getresponse()
        raw = answer.readline()
        if begun is not None:
            begun.set()
        raw += answer.read()
        lines = [line.removeprefix(b"data: ") for line in raw.split(b"\n\n") if line.startswith(b"data: {")]
        pieces = [choice["delta"].get("content") or "" for line in lines for choice in json.loads(line)["choices"]]
        return answer.status, "".join(pieces)
    finally:
        connection.close()


def test_two_versions_in_one_batch_and_the_old_folder_until_its_last_token(
    stack: Stack, images: dict[str, str]
) -> None:
    """Both end an engine that does not keep them apart: equal names in one batch, and a folder that is gone in flight."""
    stack.want({"name": "legal", "image": images["one"]})
    stack.serves("legal", images["one"])
    alone = stream_pieces(stack, "legal", 900)
    versions = stack.folder / "store" / "versions"
    wait_for(lambda: len(list(versions.iterdir())) == 1, 60, "earlier ones are gone")
    (old,) = versions.iterdir()
    begun, results, loads = threading.Event(), {}, stack.loads()
    first = threading.Thread(target=lambda: results.update(one=stream_pieces(stack, "legal", 900, begun)))
    first.start()
    assert begun.wait(60)
    stack.want({"name": "legal", "image": images["two"]})
    # Not by its report: each look at that starts a program, and meanwhile the first answer goes on.
    wait_for(lambda: stack.loads() > loads, 60, "the new one serves")
    assert first.is_alive(), "the machine is too fast for this test: ask for more tokens"
    assert old.is_dir()
    assert len(list(versions.iterdir())) == 2
    results["two"] = stream_pieces(stack, "legal", 60)
    first.join(120)
    assert results == {"one": alone, "two": stream_pieces(stack, "legal", 60)}
    assert alone[0] == 200
    assert not alone[1].startswith(results["two"][1])
    wait_for(lambda: not old.exists(), 60, "the old folder goes once nothing uses it")
    assert stack.ask("legal")[0] == 200


GREEDY = 16
TOLERANCE = 0.2
TIE = 0.02
"""Logprobs that bfloat16 cannot tell apart."""


def greedy(stack: Stack, prompt: str) -> tuple[list[int], list[dict[int, float]]]:
    """The tokens that the server chooses after `prompt`, and the top-20 logprobs of each prompt token but the first."""
    body = {"model": "mild", "prompt": prompt, "temperature": 0, "prompt_logprobs": 20, "return_token_ids": True}
    body |= {"max_tokens": GREEDY, "min_tokens": GREEDY, "ignore_eos": True, "add_special_tokens": False}
    connection = http.client.HTTPConnection("127.0.0.1", stack.server.port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    (choice,) = json.loads(connection.getresponse().read())["choices"]
    connection.close()
    places = [
        {int(token): entry["logprob"] for token, entry in place.items()} for place in choice["prompt_logprobs"][1:]
    ]
    return choice["token_ids"], places


@pytest.mark.parametrize("strength", ["0.25", "0.5", "1"])
def test_in_bfloat16_strength_equals_peft_s(stack: Stack, images: dict[str, str], strength: str) -> None:
    """Each prompt token's top-20 logprobs within 0.2 of PEFT's; greedy tokens as PEFT chooses them, up to a near-tie."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stack.want({"name": "mild", "image": images["mild"], "strength": strength})
    stack.serves("mild", images["mild"], strength)
    prompt = "The quick brown fox jumps over the lazy dog"
    chosen, places = greedy(stack, prompt)

    base = AutoModelForCausalLM.from_pretrained(stack.model, dtype=torch.bfloat16, attn_implementation="eager")
    tuned = PeftModel.from_pretrained(base, str(stack.folder / "mild"), autocast_adapter_dtype=False).to(torch.bfloat16)
    for module in tuned.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling = {name: value * float(strength) for name, value in module.scaling.items()}
    asked = AutoTokenizer.from_pretrained(stack.model)(prompt, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        # PEFT sees the server's own tokens, so that one near-tie does not hide what comes after it.
        logits = tuned(input_ids=torch.tensor([asked + chosen])).logits[0].float()
    expected = torch.log_softmax(logits, dim=-1)

    assert len(places) == len(asked) - 1 > 5
    assert len(chosen) == GREEDY
    farthest = 0.0
    for position, place in enumerate(places):
        top = expected[position].topk(20).indices.tolist()
        least = sorted(place.values())[-20]  # the prompt's own token is there too, however unlikely it is
        apart = [abs(logprob - float(expected[position][token])) for token, logprob in place.items()]
        # What PEFT has among its first 20 and the server has not is below the server's last one there.
        apart += [float(expected[position][token]) - least for token in top if token not in place]
        farthest = max(farthest, *apart)
    after = expected[len(asked) - 1 : -1]
    behind = [float(row.max() - row[token]) for row, token in zip(after, chosen, strict=True)]
    print(
        f"strength {strength}: top-20 at most {farthest:.4f} apart; greedy tokens behind PEFT's first choice: {behind}"
    )
    assert farthest < TOLERANCE
    assert max(behind) < TIE


def test_the_init_container_looks_at_the_adapters_before_the_engine_starts(
    stack: Stack, images: dict[str, str], push: PushImage, tmp_path: Path
) -> None:
    weights = f"{stack.registry.host}/models/tiny:1"
    asyncio.run(push(weights, {f"models/{path.name}": path for path in sorted(stack.model.iterdir())}))
    secret(stack, "right", PASSWORD)
    stack.want(
        {"name": "good", "image": images["one"]},
        {"name": "rank", "image": images["rank"]},
        {"name": "shape", "image": images["shape"]},
        {"name": "private", "image": f"{stack.locked.host}/team/adapter:1", "secrets": ("right",)},
    )
    hosts = ("--plain-http", stack.registry.host, "--plain-http", stack.locked.host)
    command = [sys.executable, "-m", "model_server", "fetch", f"oci://{weights}#models", "--to", str(tmp_path / "w")]
    command += ["--workspace", f"{stack.namespace}/phi", "--max-lora-rank", "16", *hosts]
    environment = {
        "KUBECONFIG": str(stack.apiserver.kubeconfig),
        "POD_NAME": POD,
        "POD_NAMESPACE": stack.namespace,
        "MODEL_SERVER_TERMINATION_LOG": str(tmp_path / "log"),
    }
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "log").read_text())
    found = {entry["name"]: (entry["state"], entry.get("reason", "")) for entry in said["adapters"]}
    assert found == {
        "good": ("Pending", ""),
        "rank": ("Failed", "RankTooHigh"),
        "shape": ("Failed", "WrongBaseModel"),
        "private": ("Failed", "NotFound"),
    }


CHUNK = 'data: {"model": "a", "choices": [{"finish_reason": null}]}\n\n'
OTHER = CHUNK.replace('"a"', '"a@1-s1"')
END = CHUNK.replace("null", '"length"') + 'data: {"model": "a", "choices": [], "usage": {"completion_tokens": 2}}\n\n'


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (f"{CHUNK}{END}data: [DONE]\n\n", ""),
        (f'{CHUNK}data: {{"error": {{"code": 500}}}}\n\ndata: [DONE]\n\n', "an error inside"),
        (f"{CHUNK}{OTHER}{END}data: [DONE]\n\n", "another name"),
        (f"{CHUNK}{END}", "does not end"),
        (f"{CHUNK}data: [DONE]\n\n", "finished []"),
        (f"{CHUNK}{END.replace('2', '1')}data: [DONE]\n\n", "used {'completion_tokens': 1}"),
    ],
)
def test_what_is_wrong_with_a_stream(raw: str, fault: str) -> None:
    found = stream_fault(raw.encode(), "a", 2)
    assert (fault in found) if fault else not found


def test_a_client_who_never_reads_holds_no_adapter_and_may_read_to_the_end_later(
    stack: Stack, images: dict[str, str]
) -> None:
    stack.want({"name": "legal", "image": images["one"]})
    stack.serves("legal", images["one"])
    versions = stack.folder / "store" / "versions"
    wait_for(lambda: len(list(versions.iterdir())) == 1, 60, "earlier ones are gone")
    (old,) = versions.iterdir()
    # More bytes than the sockets take; several answers at once must be drawn by chance.
    body = stream_request("legal", 800, n=8, temperature=1, logprobs=True, top_logprobs=20)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", stack.server.port))
        client.sendall(f"{head}\r\n\r\n{body}".encode())
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.status == 200, answer.read()
        stack.want({"name": "legal", "image": images["two"]})
        wait_for(lambda: not old.exists(), 120, "the engine let the old version go")
        assert "kaito_requests_in_flight 1.0" in stack.server.get("/metrics")[1], "the sockets took the whole answer"
        rest = answer.read()
        print(f"{len(rest) >> 10} KiB were read after the old version was gone")
        assert stream_fault(rest, "legal", 800, answers=8) == ""
    assert stack.ask("legal")[0] == 200


def test_twenty_swaps_under_a_load_of_streams_fail_none(stack: Stack, images: dict[str, str]) -> None:
    stack.want({"name": "legal", "image": images["one"]})
    stack.serves("legal", images["one"])
    stop = threading.Event()
    failures: list[str] = []
    counts = [0] * 32

    def load(number: int) -> None:
        while not stop.is_set():
            try:
                fault = stack.stream_fault("legal" if number % 2 else MODEL, 24)
            except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
                fault = repr(error)
            if fault:
                failures.append(fault)
                return
            counts[number] += 1

    threads = [threading.Thread(target=load, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for swap in range(20):
        image, strength = ("two", "one")[swap % 2], ("0.5", "1", "0.75")[swap % 3]
        stack.want({"name": "legal", "image": images[image], "strength": strength})
        stack.serves("legal", images[image], strength)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert min(counts) > 0
    wait_for(lambda: len(list((stack.folder / "store" / "versions").iterdir())) == 1, 60, "old versions removed")
    print(f"{sum(counts)} streams, 20 swaps")


def test_a_killed_engine_ends_the_server_with_words_and_the_next_one_serves_from_the_store(
    stack: Stack, images: dict[str, str], server_factory: Any
) -> None:
    stack.want({"name": "legal", "image": images["one"]}, {"name": MODEL, "image": images["one"]})
    stack.serves("legal", images["one"])
    before = stack.text("legal")
    refused = wait_for(lambda: stack.report(MODEL), 60, "a word on the other one")
    assert refused["reason"] == "SpecInvalid"
    engine = next(c for c in psutil.Process(stack.server.process.pid).children() if "EngineCore" in c.name())
    engine.kill()
    code = stack.server.process.wait(120)
    last = stack.server.report()
    # Where the kernel's counter can be read it says that this was no lack of memory; elsewhere memory is the best guess.
    assert (code, last["reason"]) in {(70, "EngineFailed"), (71, "OutOfMemory")}
    assert "SIGKILL" in str(last["message"])
    assert stack.server.litter() == []
    stack.registry.stop()
    factory = server_factory(stack.folder)
    try:
        stack.server = start(stack, factory)
        # Ready means that what was named at the start is settled: no wait here.
        assert stack.models() == {MODEL, "legal"}
        assert stack.text("legal") == before
        wait_for(
            lambda: "registry does not answer" in stack.report("legal").get("message", ""),
            60,
            "the new server's report",
        )
    finally:
        stack.registry.start()
        factory.close()
