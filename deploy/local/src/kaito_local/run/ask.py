"""Asks the running model: the plain /chat route as curl would, and the OpenAI routes with OpenAI's own client."""

import asyncio
import json

import aiohttp
import openai
from openai.types.chat import ChatCompletionUserMessageParam

_TIMEOUT = 120.0
_REFUSED_FOR = 20.0
"""Seconds for which an address may refuse connections: kube-proxy hears of a ready pod a moment after its Workspace does."""


async def reachable(base_url: str) -> None:
    """Return when the Service's address takes connections; it tells nobody when it does, so this asks, five times a second."""
    deadline = asyncio.get_running_loop().time() + _REFUSED_FOR
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT)) as session:
        while True:
            try:
                async with session.get(f"{base_url}/health"):
                    return
            except aiohttp.ClientConnectorError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(0.2)


async def chat(base_url: str, prompt: str) -> str:
    """POST /chat {"prompt": ...}; returns the body as the server sent it."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        body = json.dumps({"prompt": prompt}).encode()
        headers = {"Content-Type": "application/json"}
        async with session.post(f"{base_url}/chat", data=body, headers=headers) as response:
            response.raise_for_status()
            return (await response.text()).strip()


async def model_name(base_url: str) -> str:
    """The name under which the server offers its model."""
    async with _client(base_url) as client:
        return (await client.models.list()).data[0].id


async def complete(base_url: str, model: str, question: str) -> str:
    """A chat completion in one piece."""
    async with _client(base_url) as client:
        answer = await client.chat.completions.create(model=model, messages=[_user(question)], temperature=0)
    return answer.choices[0].message.content or ""


async def stream(base_url: str, model: str, question: str) -> list[str]:
    """A chat completion as a stream; returns its pieces."""
    async with _client(base_url) as client, asyncio.timeout(_TIMEOUT):
        chunks = await client.chat.completions.create(
            model=model, messages=[_user(question)], temperature=0, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices]
    return [piece for piece in pieces if piece]


def _client(base_url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none", timeout=_TIMEOUT, max_retries=2)


def _user(question: str) -> ChatCompletionUserMessageParam:
    return {"role": "user", "content": question}
