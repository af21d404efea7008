"""What of a request cannot be sent to the engine's process: found, and named as the client knows it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from model_server import vllm_compat
from model_server.sendable import Unsendable, unsendable

HALF = "a\ud83d"


@dataclass
class Constraint:
    regex: str = ""
    choice: list[str] = field(default_factory=list)


class Sampling(msgspec.Struct):
    stop: list[str] = []
    top_k: int = 0
    structured_outputs: Any = None
    extra_args: Any = None


class Request(msgspec.Struct):
    request_id: str = "cmpl-1"
    prompt_token_ids: tuple[int, ...] = (1, 2)
    sampling_params: Sampling = msgspec.field(default_factory=Sampling)
    final: bool = True
    lora: Any = None


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request(), None),
        (Request(sampling_params=Sampling(stop=["end", "\U0001f600"], top_k=2**64 - 1)), None),
        (Request(sampling_params=Sampling(top_k=-(2**63))), None),
        (Request(request_id=HALF), "request_id holds half of a surrogate pair"),
        (Request(sampling_params=Sampling(stop=["end", HALF])), "stop holds half of a surrogate pair"),
        (Request(sampling_params=Sampling(top_k=2**64)), "top_k needs more than 64 bits"),
        (Request(sampling_params=Sampling(top_k=-(2**63) - 1)), "top_k needs more than 64 bits"),
        (Request(sampling_params=Sampling(structured_outputs=Constraint(choice=["a", HALF]))), "choice holds half"),
        (Request(sampling_params=Sampling(extra_args={"a": {HALF: 1}})), "extra_args holds half"),
        (Request(sampling_params=Sampling(extra_args={"a": [1, {"b": 2**70}]})), "extra_args needs more than 64 bits"),
    ],
)
def test_the_field_is_named(request_: Request, expected: str | None) -> None:
    found = unsendable(request_)
    if expected is None:
        assert found is None
        msgspec.msgpack.encode(request_)
        return
    assert isinstance(found, Unsendable)
    assert found.message.startswith(expected)
    assert found.field == expected.partition(" ")[0]
    with pytest.raises((UnicodeEncodeError, OverflowError)):
        msgspec.msgpack.encode(request_)


class Engine:
    """What vLLM keeps of its sequences: here, and in the engine's process, whose pipe takes nothing for a while."""

    def __init__(self) -> None:
        self.noted = {"cmpl-1"}
        self.told: list[list[str]] = []
        self.sending = asyncio.Event()
        self.output_processor = self
        self.engine_core = self
        self.add_request_async = self.send

    async def send(self, _request: Request) -> None:
        self.sending.set()
        await asyncio.Event().wait()

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        self.told.append(request_ids)

    def abort_requests(self, request_ids: list[str], *, internal: bool) -> None:
        assert internal
        self.noted.difference_update(request_ids)


async def test_a_client_who_goes_away_while_its_request_is_sent_leaves_nothing_behind() -> None:
    engine = Engine()
    vllm_compat.forget_unsent(engine)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(engine.add_request_async(Request()))
        await engine.sending.wait()
        sending.cancel()
    assert sending.cancelled()
    assert (engine.noted, engine.told) == (set(), [["cmpl-1"]])
