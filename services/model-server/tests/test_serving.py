"""The real server with real vLLM on the CPU: routes, streaming, refusals, drain."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import re
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import psutil
import pytest

if TYPE_CHECKING:
    from conftest import ServerFactory, ServerProcess

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]

MODEL = "phi-tiny"
QUESTION = "What is a workspace?"


@pytest.fixture
def client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def chat(server: ServerProcess, body: Any, timeout: float = 60, key: str = "none") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        headers = {"Authorization": f"Bearer {key}"}
        connection.request("POST", "/chat", body if isinstance(body, bytes) else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def events(raw: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in raw.decode().split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_an_openai_client_chats(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=8,
        temperature=0,
        extra_body={"min_tokens": 8},
    )
    assert answer.model == MODEL
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


def test_an_openai_client_streams_the_same_text(client: openai.OpenAI) -> None:
    ask: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 16,
        "temperature": 0,
        "extra_body": {"min_tokens": 16},
    }
    whole = client.chat.completions.create(**ask).choices[0].message.content
    chunks = list(client.chat.completions.create(**ask, stream=True))
    assert len(chunks) > 8
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert {chunk.model for chunk in chunks} == {MODEL}


def test_chat_equals_the_openai_route(server: ServerProcess, client: openai.OpenAI) -> None:
    status, _, raw = chat(server, {"prompt": QUESTION, "generate_kwargs": {"max_length": 12, "do_sample": False}})
    theirs = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], max_tokens=12, temperature=0
    )
    assert theirs.usage is not None
    answer = json.loads(raw)
    assert status == 200
    assert answer["Result"] == theirs.choices[0].message.content
    assert answer["usage"]["completion_tokens"] == theirs.usage.completion_tokens
    assert answer["finish_reason"] == theirs.choices[0].finish_reason
    assert answer["model"] == MODEL


def test_chat_streams(server: ServerProcess) -> None:
    body = {"prompt": QUESTION, "max_tokens": 12, "temperature": 0, "min_new_tokens": 12}
    whole = json.loads(chat(server, body)[2])["Result"]
    status, headers, raw = chat(server, body | {"stream": True})
    pieces = events(raw)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert "".join(piece["Result"] for piece in pieces) == whole
    assert pieces[-1]["finish_reason"] == "length"
    assert pieces[-1]["usage"]["completion_tokens"] == 12


def test_return_full_text_puts_the_prompt_in_front(server: ServerProcess) -> None:
    body = {"prompt": QUESTION, "return_full_text": True, "max_tokens": 4}
    assert json.loads(chat(server, body)[2])["Result"].startswith(QUESTION)
    assert events(chat(server, body | {"stream": True})[2])[0]["Result"] == QUESTION


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "not valid JSON"),
        (b'{"prompt": ' + b"[" * 100_000, 400, "not valid JSON"),
        ({"prompt": ""}, 400, "not empty"),
        ({"prompt": "x", "nope": 1}, 400, "unknown fields: nope"),
        ({"prompt": "x", "adapter": "absent"}, 404, "`absent` does not exist"),
        ({"messages": [{"role": "user"}]}, 400, "role and content"),
        ({"prompt": "x", "seed": 1.5}, 400, "whole number"),
        ({"prompt": "a b c " * 2000}, 400, "maximum context length"),
    ],
)
def test_chat_refuses_with_words(server: ServerProcess, body: Any, status: int, words: str) -> None:
    got, _, raw = chat(server, body)
    error = json.loads(raw)["error"]
    assert (got, error["code"]) == (status, status), error
    assert words in error["message"]


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions", "/v1/completions", "/tokenize"])
def test_a_body_without_end_is_refused_and_not_held(server: ServerProcess, path: str) -> None:
    """Without a limit every byte of it would lie in the server's memory, until the pod is killed for it."""
    sent, block = 0, b"a" * (1 << 20)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders(b'1\r\n"\r\n')
        before = psutil.Process(server.process.pid).memory_info().rss
        for _ in range(300):
            connection.send(b"%x\r\n%b\r\n" % (len(block), block))
            sent += len(block)
        connection.send(b"0\r\n\r\n")
        answer = connection.getresponse()
        error = json.loads(answer.read())["error"]
        assert (answer.status, error["code"], "larger than" in error["message"]) == (413, 413, True)
        assert psutil.Process(server.process.pid).memory_info().rss - before < sent / 2
    finally:
        connection.close()
    assert chat(server, {"prompt": QUESTION, "max_tokens": 1})[0] == 200


def test_logprobs_need_no_compiler(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=3, logprobs=True, top_logprobs=2
    )
    assert chat.choices[0].logprobs is not None
    assert [len(token.top_logprobs) for token in chat.choices[0].logprobs.content or []] == [2, 2, 2]
    plain = client.completions.create(model=MODEL, prompt="hello", max_tokens=2, logprobs=1, echo=True)
    assert plain.choices[0].logprobs is not None


def test_an_engine_that_a_request_kills_ends_the_server_with_words(tiny_model: Path, servers: ServerFactory) -> None:
    # Where the engine compiles, and finds no compiler, this request is its end.
    server = servers.start(
        tiny_model, engine=("--max-model-len=256", "--enforce-eager"), env={"TORCH_COMPILE_DISABLE": "0"}
    )
    server.wait_ready()
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.APIError):
        client.completions.create(model=MODEL, prompt="hello", max_tokens=2, logprobs=1)
    assert server.process.wait(120) == 70
    last = server.report()
    assert (last["state"], last["reason"]) == ("Failed", "EngineFailed")
    assert "compiler" in str(last["message"])


@pytest.mark.parametrize("name", ["absent", "../../etc", "org/model", "x" * 5000])
def test_unknown_models_are_404_and_reach_no_resolver(server: ServerProcess, client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=name, messages=[{"role": "user", "content": "x"}])
    assert "resolve" not in server.log.read_text().split("Application startup complete")[-1].lower()


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/collective_rpc", "/sleep", "/scale_elastic_ep"]
)
def test_routes_that_change_the_engine_are_absent(server: ServerProcess, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", path, "{}", {"content-type": "application/json"})
    assert connection.getresponse().status == 404
    connection.close()


def test_health_ready_metrics(server: ServerProcess) -> None:
    assert server.get("/health")[0] == 200
    assert server.get("/readyz") == (200, '{"state":"Ready"}')
    chat(server, {"prompt": QUESTION, "max_tokens": 5})
    status, text = server.get("/metrics")
    assert status == 200
    for name in ("vllm:num_requests_running", "kaito_ready 1.0", 'kaito_adapter_requests_total{adapter="(base)"'):
        assert name in text
    tokens = [line for line in text.splitlines() if line.startswith('kaito_adapter_tokens_total{adapter="(base)"')]
    assert len(tokens) == 2
    assert all(float(line.rpartition(" ")[2]) > 0 for line in tokens)


def test_a_full_queue_is_429_and_recovers(server: ServerProcess) -> None:
    """The session's server runs 8 sequences at once: 8 running and 8 waiting fit, what comes on top does not."""
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        body = {"prompt": QUESTION, "max_tokens": 150, "generate_kwargs": {"eos_token_id": 3}}
        answers = list(pool.map(lambda _: chat(server, body, 120), range(40)))
    busy = [(headers, raw) for status, headers, raw in answers if status == 429]
    assert {status for status, _, _ in answers} == {200, 429}
    assert len(answers) - len(busy) >= 16
    headers, raw = busy[0]
    assert int(headers["retry-after"]) >= 1
    assert json.loads(raw)["error"]["code"] == "rate_limit_exceeded"
    assert chat(server, {"prompt": QUESTION, "max_tokens": 2})[0] == 200
    assert "kaito_ratelimit_rejected_total 0.0" not in server.get("/metrics")[1]


def keys_come_and_go(server: ServerProcess, keys: Path) -> None:
    """A server that started with an empty folder of keys refuses everybody, opens to each key, and to no other."""
    while "serves nobody" not in server.log.read_text() and server.process.poll() is None:
        threading.Event().wait(0.2)
    ask = {"prompt": QUESTION, "max_tokens": 1}
    assert server.get("/readyz")[1] == '{"state":"Ready","waitingFor":"apiKeys"}'
    assert b"every request is refused" in chat(server, ask, key="sk-one")[2]
    (keys / "one").write_text("sk-one\n")
    server.wait_ready()
    assert chat(server, ask, key="sk-one")[0] == 200
    assert chat(server, ask)[0] == 401
    stranger, friend = (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=60) for key in ("sk", "sk-one")
    )
    with pytest.raises(openai.AuthenticationError, match="not valid"):
        stranger.models.list()
    assert friend.models.list().data[0].id == MODEL
    assert "kaito_auth_refused_total 3.0" in server.get("/metrics")[1]
    assert "sk-one" not in server.log.read_text()


def test_keys_then_sigterm_lets_a_stream_finish_and_refuses_what_is_new(
    tiny_model: Path, servers: ServerFactory, tmp_path: Path
) -> None:
    """Under the init process, as in a container: SIGTERM goes to it."""
    keys = tmp_path / "api-keys"
    keys.mkdir()
    flags = ("--init", "always", "--api-keys-dir", str(keys))
    server = servers.start(tiny_model, *flags, engine=("--max-model-len=1024", "--max-num-seqs=8"))
    keys_come_and_go(server, keys)
    room = re.search(r'kv_cache_size_tokens="(\d+)"', server.get("/metrics")[1])
    first_piece, result = threading.Event(), []

    def stream() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        body = {"prompt": QUESTION, "max_tokens": 500, "stream": True, "temperature": 0}
        sent = json.dumps(body | {"generate_kwargs": {"min_new_tokens": 500}})
        connection.request("POST", "/chat", sent, {"Authorization": "Bearer sk-one"})
        answer = connection.getresponse()
        raw = answer.read(20)
        first_piece.set()
        result.append(raw + answer.read())
        connection.close()

    thread = threading.Thread(target=stream)
    thread.start()
    assert first_piece.wait(60)
    server.process.send_signal(15)
    refused = None
    for _ in range(200):
        refused = chat(server, {"prompt": QUESTION, "max_tokens": 1}, key="sk-one")
        if refused[0] == 503:
            break
    assert refused is not None
    assert refused[0] == 503
    assert refused[1]["retry-after"] == "1"
    assert server.get("/readyz")[0] == 503
    assert server.get("/health")[0] == 200
    thread.join(60)
    assert events(result[0])[-1]["usage"]["completion_tokens"] == 500
    assert server.process.wait(120) == 0
    report = server.report()
    assert report["state"] == "Draining"
    assert room is not None
    engine: Any = report["engine"]
    assert (engine["maxModelLen"], engine["kvCacheTokens"]) == (1024, int(room[1])), "as vLLM itself says"
    assert "Traceback" not in server.log.read_text()
    assert server.litter() == []


def damage_truncated(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(100_000)


def damage_architecture(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("Phi3ForCausalLM", "NoSuchForCausalLM"))


def damage_shapes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 512}))


@pytest.mark.parametrize(
    ("damage", "arguments", "code", "reason", "words"),
    [
        (damage_truncated, (), 67, "WeightsInvalid", "truncated"),
        (damage_architecture, (), 67, "WeightsInvalid", "NoSuchForCausalLM"),
        (None, ("--architecture", "LlamaForCausalLM"), 67, "WeightsInvalid", "another model"),
        (None, ("--config", "bad.yaml"), 65, "ConfigInvalid", "max_model_len"),
        (None, ("--config", "absent.yaml"), 65, "ConfigInvalid", "absent.yaml"),
    ],
)
def test_bad_input_ends_with_its_code_and_reason(
    tiny_model: Path,
    servers: ServerFactory,
    tmp_path: Path,
    damage: Any,
    arguments: tuple[str, ...],
    code: int,
    reason: str,
    words: str,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    if damage:
        damage(model)
    (tmp_path / "bad.yaml").write_text("vllm:\n  max-model-len: 999999\n")
    server = servers.start(model, *arguments)
    assert server.process.wait(300) == code, server.log.read_text()[-3000:]
    report = server.report()
    assert (report["state"], report["reason"]) == ("Failed", reason)
    assert words in str(report["message"])


def test_a_failure_inside_the_engine_names_the_root_cause(
    tiny_model: Path, servers: ServerFactory, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    damage_shapes(model)
    server = servers.start(model)
    code = server.process.wait(300)
    report = server.report()
    assert (code, report["reason"]) == (70, "EngineFailed")
    assert "Engine core initialization failed" not in str(report["message"])
    assert "Error" in str(report["message"])


def test_a_taken_port_is_known_at_once(server: ServerProcess, servers: ServerFactory, tiny_model: Path) -> None:
    second = servers.start(tiny_model, "--port", str(server.port))
    assert second.process.wait(120) == 70
    assert "is taken" in str(second.report()["message"])


def test_sigterm_while_loading_ends_at_once(tiny_model: Path, servers: ServerFactory) -> None:
    server = servers.start(tiny_model)
    while "Initializing a V1 LLM engine" not in server.log.read_text() and server.process.poll() is None:
        threading.Event().wait(0.2)
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert children
    server.process.send_signal(15)
    assert server.process.wait(120) == 0
    _, alive = psutil.wait_procs(children, 60)
    assert not alive
    assert server.litter() == []
