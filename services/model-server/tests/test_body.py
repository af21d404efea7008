"""The bounds of a request's body: size, time, and that what follows the body is waited for without end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import HTTPException

from model_server.body import LIMIT, Body


def piece(size: int, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


GONE = {"type": "http.disconnect"}


def script(*messages: dict[str, Any]) -> Callable[[], Any]:
    """A client that sends these, and then nothing."""
    left = list(messages)

    async def receive() -> Any:
        if left:
            return left.pop(0)
        return await asyncio.get_running_loop().create_future()

    return receive


@pytest.mark.parametrize(
    "sizes", [[0], [LIMIT], [LIMIT // 2, LIMIT // 2], [1 << 20] * 32], ids=["none", "the most", "halves", "pieces"]
)
async def test_a_body_within_the_bounds_passes_as_it_is(sizes: list[int]) -> None:
    messages = [piece(size, more=number < len(sizes)) for number, size in enumerate(sizes, 1)]
    body = Body(script(*messages, GONE))
    assert [await body() for _ in range(len(sizes) + 1)] == [*messages, GONE]


@pytest.mark.parametrize("sizes", [[LIMIT + 1], [LIMIT, 1]])
async def test_one_byte_more_is_413(sizes: list[int]) -> None:
    body = Body(script(*(piece(size, more=True) for size in sizes)))
    for _ in sizes[1:]:
        await body()
    with pytest.raises(HTTPException) as caught:
        await body()
    assert (caught.value.status_code, str(LIMIT) in caught.value.detail) == (413, True)


@pytest.mark.parametrize("sent", [[], [piece(3, more=True)]])
async def test_a_body_that_does_not_end_is_408(sent: list[dict[str, Any]]) -> None:
    body = Body(script(*sent), seconds=0.05)
    for _ in sent:
        await body()
    with pytest.raises(HTTPException) as caught:
        await body()
    assert caught.value.status_code == 408


async def test_the_time_ends_with_the_body() -> None:
    """A stream may last for hours: the server waits meanwhile for its client to go away."""
    body = Body(script(piece(3, more=False)), seconds=0.05)
    await body()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(body())
        _, pending = await asyncio.wait([waiting], timeout=0.3)
        assert pending == {waiting}
        waiting.cancel()


async def test_a_client_that_goes_away_within_its_body_is_told_of() -> None:
    body = Body(script(piece(3, more=True), GONE))
    assert [await body(), await body()] == [piece(3, more=True), GONE]
