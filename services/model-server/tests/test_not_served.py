"""What a client reads who asks for a model that is not served, and whether asking again can help."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from kaito_api.report import AdapterReport
from model_server.adapters.states import AdapterStates
from model_server.admission import AdmissionMiddleware
from model_server.lifecycle import CURRENT, Lifecycle
from model_server.metrics import Metrics
from model_server.routes.not_served import Refusal, refuse

if TYPE_CHECKING:
    from conftest import ServerProcess

BASE = "phi"
UNKNOWN = "The model `lgal` does not exist. Served here: "


@pytest.mark.parametrize(
    ("adapters", "words"),
    [
        ((), "the model `phi`, and no adapter."),
        (("legal",), "the model `phi`, the adapter `legal`."),
        (("tax", "legal"), "the model `phi`, the adapters `legal`, `tax`."),
        (
            tuple(f"a{number}" for number in range(10)),
            "the model `phi`, the adapters " + ", ".join(f"`a{number}`" for number in range(10)) + ".",
        ),
        (
            tuple(f"a{number}" for number in range(13)),
            "the model `phi`, the adapters `a0`, `a1`, `a10`, `a11`, `a12`, `a2`, `a3`, `a4`, `a5`, `a6` and 3 more "
            "(GET /v1/models lists all).",
        ),
    ],
)
def test_an_unknown_name_is_told_what_there_is(adapters: tuple[str, ...], words: str) -> None:
    refusal = refuse("lgal", base=BASE, adapters=adapters, report=None)
    assert refusal == Refusal(status=404, type="NotFoundError", message=UNKNOWN + words, retry_after=0)


@pytest.mark.parametrize(
    ("state", "reason", "said", "status", "words"),
    [
        ("Pending", "", "", 503, "The adapter `tax` is not served yet (Pending): ask again in a few seconds. Served"),
        ("Pulling", "", "", 503, "The adapter `tax` is not served yet (Pulling): ask again"),
        ("Loading", "", "", 503, "The adapter `tax` is not served yet (Loading): ask again"),
        ("Failed", "RankTooHigh", "rank 64 > 16.", 404, "The adapter `tax` is not served (Failed, RankTooHigh): rank 64 > 16. "),
        ("Failed", "EngineFailed", "x" * 5000, 404, "(Failed, EngineFailed): " + "x" * 599 + "…. Served here"),
        ("Draining", "", "removed from the Workspace", 404, "`tax` is not served (Draining): removed from the Workspace. "),
    ],
)  # fmt: skip
def test_an_adapter_that_is_not_ready_says_how_it_fares(
    state: str, reason: str, said: str, status: int, words: str
) -> None:
    report = AdapterReport(name="tax", state=state, reason=reason, message=said)
    refusal = refuse("tax", base=BASE, adapters=("legal",), report=report)
    assert words in refusal.message
    assert refusal.message.endswith("Served here: the model `phi`, the adapter `legal`.")
    assert (refusal.status, refusal.retry_after > 0) == (status, status == 503)
    assert refusal.type == {404: "NotFoundError", 503: "ServiceUnavailableError"}[status]


def test_a_name_of_any_length_is_answered_in_few_words() -> None:
    assert len(refuse("x" * 10**6, base=BASE, adapters=(), report=None).message) < 400


def test_what_is_wanted_is_known_before_anything_is_done_for_it() -> None:
    told: list[list[AdapterReport]] = []
    states = AdapterStates(Metrics(CollectorRegistry()), told.append)
    states.expect({"tax", "legal"})
    assert states.unserved("tax") == AdapterReport(name="tax", state="Pending")
    assert (states.unserved("other"), states.get("tax"), told) == (None, None, [])


@pytest.mark.parametrize(
    ("reported", "while_wanted", "when_removed"),
    [
        ("Pulling", "Pulling", ""),
        ("Loading", "Loading", ""),
        ("Failed", "Failed", ""),
        ("Ready", "Pending", ""),
        ("Draining", "Pending", "Draining"),
    ],
)
def test_a_report_of_before_the_last_edit_does_not_count(reported: str, while_wanted: str, when_removed: str) -> None:
    states = AdapterStates(Metrics(CollectorRegistry()), lambda _: None)
    states.enter(AdapterReport(name="tax", state=reported))
    found = []
    for wanted in ({"tax"}, set[str]()):
        states.expect(wanted)
        report = states.unserved("tax")
        found.append(report.state if report is not None else "")
    assert found == [while_wanted, when_removed]


@pytest.mark.parametrize(("seconds", "expected"), [(3, [(b"a", b"b"), (b"retry-after", b"3")]), (0, [(b"a", b"b")])])
async def test_the_answer_says_when_to_ask_again(seconds: int, expected: list[tuple[bytes, bytes]]) -> None:
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        flight = CURRENT.get()
        assert flight is not None
        flight.retry_after = seconds
        await send({"type": "http.response.start", "status": 503, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    layer = AdmissionMiddleware(
        application,
        lifecycle=Lifecycle(),
        metrics=Metrics(CollectorRegistry()),
        sequences=lambda: 0,
        batch=1,
        rate_limit=True,
    )
    await layer({"type": "http", "method": "POST", "state": {}}, receive, send)
    assert sent[0]["headers"] == expected


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_route_of_the_real_server_says_the_same(server: ServerProcess) -> None:
    message = "The model `absent` does not exist. Served here: the model `phi-tiny`, and no adapter."
    error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
    chat = [{"role": "user", "content": "x"}]
    bodies: dict[str, dict[str, Any]] = {
        "/chat": {"prompt": "x"},
        "/v1/chat/completions": {"messages": chat},
        "/v1/completions": {"prompt": "x"},
        "/v1/responses": {"input": "x"},
        "/tokenize": {"prompt": "x"},
        "/v1/messages": {"messages": chat, "max_tokens": 1},
    }
    said = {}
    for path, body in bodies.items():
        for stream in (False, True):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            content = json.dumps(body | {"model": "absent"} | ({"stream": True} if stream else {}))
            connection.request("POST", path, content, {"content-type": "application/json"})
            answer = connection.getresponse()
            said[path, stream] = (answer.status, answer.getheader("retry-after"), json.loads(answer.read())["error"])
            connection.close()
    anthropic = {"type": "NotFoundError", "message": message}
    expected = {path: (404, None, anthropic if path == "/v1/messages" else error) for path in bodies}
    assert said == {(path, stream): expected[path] for path in bodies for stream in (False, True)}
