"""`POST /chat`: KAITO's simple way to ask. One prompt in, `{"Result": text}` out, or the same in pieces as SSE."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError

from model_server import vllm_compat
from model_server.chat_parameters import ChatError, ChatPlan, plan

_EVENT: Final = "data: "
_DONE: Final = "data: [DONE]\n\n"


def router(*, has_template: bool) -> APIRouter:
    """Return the route. `has_template` says whether prompts can be put as a chat; otherwise they are continued."""
    routes = APIRouter()

    @routes.post("/chat")
    async def chat(raw_request: Request) -> Response:
        """Answer a prompt."""
        try:
            chat_plan = plan(await _body(raw_request), has_template)
            request = _request(chat_plan)
        except ChatError as error:
            return _bad_request(str(error))
        except ValidationError as error:
            return _bad_request("; ".join(f"{_place(item['loc'])}: {item['msg']}" for item in error.errors()))
        # The decorator ends the generation when the client goes away; it may only start once the body is read.
        answer: Response = await vllm_compat.with_cancellation(_answer)(chat_plan, raw_request, request)
        return answer

    return routes


async def _answer(chat_plan: ChatPlan, raw_request: Request, request: Any) -> Response:
    state = raw_request.app.state
    if chat_plan.chat:
        answer = await state.openai_serving_chat.create_chat_completion(request, raw_request)
    else:
        answer = await state.openai_serving_completion.create_completion(request, raw_request)
    if vllm_compat.is_error(answer):
        return JSONResponse({"error": answer.error.model_dump()}, status_code=answer.error.code)
    if vllm_compat.is_stream(answer):
        return StreamingResponse(_events(chat_plan, answer), media_type="text/event-stream")
    choice = answer.choices[0]
    text = choice.message.content if chat_plan.chat else choice.text
    return JSONResponse(
        {
            "Result": chat_plan.lead + (text or ""),
            "model": answer.model,
            "finish_reason": choice.finish_reason,
            "usage": answer.usage.model_dump(exclude_none=True),
        }
    )


async def _events(chat_plan: ChatPlan, answer: AsyncIterator[str]) -> AsyncIterator[str]:
    """Turn vLLM's chunks into ours: `{"Result": piece}`, at the end with model, finish_reason and usage."""
    if chat_plan.lead:
        yield _event({"Result": chat_plan.lead})
    ending: dict[str, Any] = {"Result": ""}
    async for event in answer:
        if not event.startswith(_EVENT) or event == _DONE:
            continue
        chunk = json.loads(event.removeprefix(_EVENT))
        if "error" in chunk:
            yield event
            continue
        ending["model"] = chunk.get("model")
        if chunk.get("usage"):
            ending["usage"] = chunk["usage"]
        for choice in chunk.get("choices", ()):
            if choice.get("finish_reason"):
                ending["finish_reason"] = choice["finish_reason"]
            text = choice["delta"].get("content") if chat_plan.chat else choice.get("text")
            if text:
                yield _event({"Result": text})
    yield _event(ending)
    yield _DONE


def _request(chat_plan: ChatPlan) -> Any:
    if chat_plan.chat:
        return vllm_compat.chat_completion_request(chat_plan.fields)
    return vllm_compat.completion_request(chat_plan.fields)


async def _body(request: Request) -> Any:
    """Read and decode the body, whatever its content type says: users of curl forget the header."""
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ChatError(f"the body is not valid JSON: {error}") from error


def _event(content: dict[str, Any]) -> str:
    return f"{_EVENT}{json.dumps(content, ensure_ascii=False)}\n\n"


def _bad_request(message: str) -> JSONResponse:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
    return JSONResponse({"error": error}, status_code=400)


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "body"
