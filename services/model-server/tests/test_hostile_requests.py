"""Requests that ask for what cannot be: the client hears which field it is, and the next client notices nothing."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

if TYPE_CHECKING:
    from conftest import ServerProcess

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]

MODEL = "phi-tiny"
MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
HALF = "\ud83d"
"""Half of a surrogate pair: JSON can say it, text cannot hold it."""
MORE_THAN_FIT = 20
"""The session's server takes 8 sequences at once and lets 8 wait."""


@pytest.fixture
def client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def post(server: ServerProcess, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/chat", {"prompt": "hi", "stop": HALF}, "stop"),
        ("/v1/completions", {"prompt": "hi", "top_k": 2**64}, "top_k"),
        ("/v1/completions", {"prompt": "hi", "request_id": HALF}, "request_id"),
        ("/v1/completions", {"prompt": "hi", "n": 3, "stop": HALF}, "stop"),
        ("/v1/chat/completions", {"messages": MESSAGES, "stop": ["end", HALF]}, "stop"),
    ],
)
def test_what_cannot_reach_the_engine_is_refused_and_takes_no_place(
    server: ServerProcess, path: str, body: dict[str, Any], field: str
) -> None:
    """Each used to take its place in the queue for ever: seventeen of them, and nobody was served any more."""
    for _ in range(MORE_THAN_FIT):
        status, raw = post(server, path, body | {"max_tokens": 2})
        error = json.loads(raw)["error"]
        assert (status, error["param"], error["type"]) == (400, field, "BadRequestError")
        assert error["message"].startswith(f"{field} ")
    assert post(server, "/chat", {"prompt": "hi", "max_tokens": 2})[0] == 200


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"type": "string", "pattern": "\\p{L}+"},
        {"type": "string", "minLength": -1},
        {"type": "array", "minItems": 10**6},
        {"type": "object", "patternProperties": {"(": {"type": "string"}}},
    ],
    ids=["endless", "class", "negative", "huge", "unfinished"],
)
def test_a_schema_that_the_engine_cannot_follow_is_the_clients_fault(
    client: openai.OpenAI, schema: dict[str, Any]
) -> None:
    """It used to be a 500, which OpenAI's clients send again."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as chat:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=4, response_format=form)
    assert chat.value.param == "response_format"
    assert "cannot follow response_format" in chat.value.message
    with pytest.raises(openai.BadRequestError) as plain:
        client.completions.create(
            model=MODEL, prompt="hi", max_tokens=4, extra_body={"structured_outputs": {"json": schema}}
        )
    assert plain.value.param == "structured_outputs"


def test_a_stream_with_such_a_schema_ends_with_words_on_every_route(client: openai.OpenAI) -> None:
    schema: Any = {"name": "answer", "schema": {"$ref": "#"}}
    with pytest.raises(openai.APIError, match="cannot follow response_format"):
        for _ in client.chat.completions.create(
            model=MODEL, messages=MESSAGES, response_format={"type": "json_schema", "json_schema": schema}, stream=True
        ):
            pass
    form: Any = {"format": {"type": "json_schema", **schema}}
    with pytest.raises(openai.APIError, match=r"cannot follow text\.format"):
        for _ in client.responses.create(model=MODEL, input="hi", text=form, stream=True):
            pass


def test_a_schema_that_the_engine_can_follow_is_followed(client: openai.OpenAI) -> None:
    schema: Any = {"name": "answer", "schema": {"enum": ["yes", "no"]}}
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=20, response_format={"type": "json_schema", "json_schema": schema}
    )
    assert json.loads(answer.choices[0].message.content or "") in {"yes", "no"}


def test_as_many_beams_as_are_allowed_are_possible(server: ServerProcess) -> None:
    body = {"prompt": "hi", "max_tokens": 2, "generate_kwargs": {"num_beams": 10}}
    assert post(server, "/chat", body)[0] == 200
    status, raw = post(server, "/chat", body | {"generate_kwargs": {"num_beams": 11}})
    assert (status, json.loads(raw)["error"]["message"]) == (400, "num_beams must be between 1 and 10, got 11")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_one_request_cannot_take_every_place(server: ServerProcess, path: str) -> None:
    body = {"model": MODEL, "prompt": "hi", "messages": MESSAGES, "max_tokens": 1}
    status, raw = post(server, path, body | {"n": 129})
    assert (status, "n must be at most 128, got 129" in raw.decode()) == (400, True), raw
    assert post(server, path, body | {"n": 2})[0] == 200
