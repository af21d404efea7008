"""How much of a request's body is taken, and for how long: vLLM reads whatever it is sent, and holds it several times over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from fastapi import HTTPException

LIMIT: Final = 32 * 1024 * 1024
"""Bytes; a prompt of a million tokens is some 5 MB."""
SECONDS: Final = 120.0
"""From the first look at a body to its end. Meanwhile it is a request in flight: it takes a place, and holds up a drain."""

Message = MutableMapping[str, Any]


class Body:
    """ASGI's `receive` with those bounds. Raises HTTPException (413, 408): vLLM's handlers answer as OpenAI's API does."""

    def __init__(self, receive: Callable[[], Awaitable[Message]], *, seconds: float = SECONDS) -> None:
        self._receive = receive
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._size = 0
        self._whole = False

    async def __call__(self) -> Message:
        """Return the next message; what comes after the body (the client goes away) is waited for without end."""
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, "The body did not arrive in time.") from error
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
        if self._size > LIMIT:
            raise HTTPException(413, f"The body is larger than {LIMIT} bytes.")
        return message
