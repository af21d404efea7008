"""The body of `POST /chat` and what it means for the engine. Pure.

The body is KAITO's of old: a `prompt` (or `messages`) and optional parameters named as Hugging Face's pipelines name
them. Every parameter is used, is harmless at the given value, or is refused: none is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

DEFAULT_MAX_TOKENS: Final = 200
"""Tokens of an answer when the body says nothing (KAITO's default)."""
_MAX_CHOICES: Final = 10
"""Widest beam search that a client may ask for. The engine looks at twice as many candidates for each token, and gives 20."""

_LENGTHS: Final = (
    "the answer cannot have at least {least} tokens (min_length, min_new_tokens or min_tokens) and at most {most} "
    f"(max_length, max_new_tokens or max_tokens; {DEFAULT_MAX_TOKENS} where none is given)"
)


class ChatError(Exception):
    """The body cannot be used; the message says which field and why. HTTP 400."""


class ChatPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask vLLM for: `fields` of a ChatCompletionRequest, or of a CompletionRequest where `chat` is false."""

    chat: bool
    fields: dict[str, Any]
    stream: bool = False
    lead: str = ""
    """Text put before the answer (return_full_text)."""


Mapped = dict[str, Any]
_Rule = Callable[[str, Any], Mapped]


def plan(body: Any, has_template: bool) -> ChatPlan:
    """Translate a decoded JSON body. Raises ChatError."""
    if not isinstance(body, dict):
        raise ChatError('the body must be a JSON object such as {"prompt": "..."}')
    unknown = sorted(set(body) - _TOP_LEVEL - set(_RULES))
    if unknown:
        raise ChatError(f"unknown fields: {', '.join(unknown)}")
    kwargs = body.get("generate_kwargs") or {}
    if not isinstance(kwargs, dict):
        raise ChatError("generate_kwargs must be an object")
    unknown = sorted(set(kwargs) - set(_RULES))
    if unknown:
        raise ChatError(f"unknown fields in generate_kwargs: {', '.join(unknown)}")
    stream = _boolean("stream", body.get("stream"))
    fields: Mapped = {"stream": stream, "max_tokens": DEFAULT_MAX_TOKENS}
    if stream:
        fields["stream_options"] = {"include_usage": True}
    # Fields beside the prompt win over generate_kwargs: they are the newer way to say it.
    fields |= _mapped(kwargs) | _mapped({key: value for key, value in body.items() if key in _RULES})
    fields |= _model(body) | _truncation(body)
    if fields.get("min_tokens", 0) > fields["max_tokens"]:
        raise ChatError(_LENGTHS.format(least=fields["min_tokens"], most=fields["max_tokens"]))
    question, lead = _question(body, has_template)
    if _boolean("return_full_text", body.get("return_full_text")) and not lead:
        raise ChatError("return_full_text needs a prompt; with messages there is no text to return")
    wants_lead = _boolean("return_full_text", body.get("return_full_text"))
    return ChatPlan(
        chat="messages" in question, fields=fields | question, stream=stream, lead=lead if wants_lead else ""
    )


def _question(body: Mapping[str, Any], has_template: bool) -> tuple[Mapped, str]:
    """Return the prompt or messages for vLLM, and the user's own text."""
    prompt, messages = body.get("prompt"), body.get("messages")
    if (prompt is None) == (messages is None):
        raise ChatError("give exactly one of prompt and messages")
    prefix = body.get("prefix") or ""
    if not isinstance(prefix, str):
        raise ChatError("prefix must be text")
    if messages is not None:
        if prefix:
            raise ChatError("prefix goes with prompt, not with messages")
        if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
            raise ChatError("messages must be a list of objects with role and content")
        if not has_template:
            raise ChatError("this model has no chat template: send a prompt")
        return {"messages": messages}, ""
    if not isinstance(prompt, str) or not prompt:
        raise ChatError("prompt must be text, and not empty")
    text = prefix + prompt
    return ({"messages": [{"role": "user", "content": text}]} if has_template else {"prompt": text}), text


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message


def _model(body: Mapping[str, Any]) -> Mapped:
    names = {field: body[field] for field in ("adapter", "model") if body.get(field) not in (None, "")}
    if any(not isinstance(name, str) for name in names.values()):
        raise ChatError("adapter and model must be text")
    if len(set(names.values())) > 1:
        raise ChatError("adapter and model name different things: an adapter is served as a model of its own")
    return {"model": next(iter(names.values()))} if names else {}


def _truncation(body: Mapping[str, Any]) -> Mapped:
    value = body.get("handle_long_generation")
    if value is None:
        return {}
    if value != "hole":
        raise ChatError('handle_long_generation must be "hole" (cut the prompt on the left) or null')
    return {"truncate_prompt_tokens": -1}


def _mapped(values: Mapping[str, Any]) -> Mapped:
    result: Mapped = {}
    for key, value in values.items():
        if value is not None:
            result |= _RULES[key](key, value)
    if result.pop("greedy", False):
        result["temperature"] = 0.0
    return result


def _number(target: str, low: float, high: float, *, whole: bool = False) -> _Rule:
    def rule(key: str, value: Any) -> Mapped:
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise ChatError(f"{key} must be a {'whole ' if whole else ''}number, got {value!r}")
        if not low <= value <= high:
            raise ChatError(f"{key} must be between {low:.10g} and {high:.10g}, got {value!r}")
        return {target: value}

    return rule


def _only(*harmless: Any, why: str) -> _Rule:
    def rule(key: str, value: Any) -> Mapped:
        if value not in harmless:
            raise ChatError(f"{key}={value!r} is not supported: {why}")
        return {}

    return rule


def _ignored(_key: str, _value: Any) -> Mapped:
    return {}


def _boolean(key: str, value: Any) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ChatError(f"{key} must be true or false, got {value!r}")
    return value


def _sampling(key: str, value: Any) -> Mapped:
    return {} if _boolean(key, value) else {"greedy": True}


def _beams(key: str, value: Any) -> Mapped:
    width = _number("n", 1, _MAX_CHOICES, whole=True)(key, value)
    return {} if width["n"] == 1 else width | {"use_beam_search": True}


def _stop_tokens(key: str, value: Any) -> Mapped:
    tokens = value if isinstance(value, list) else [value]
    if any(isinstance(token, bool) or not isinstance(token, int) for token in tokens):
        raise ChatError(f"{key} must be a token number or a list of them")
    return {"stop_token_ids": tokens}


def _stop(key: str, value: Any) -> Mapped:
    texts = value if isinstance(value, list) else [value]
    if any(not isinstance(text, str) for text in texts):
        raise ChatError(f"{key} must be text or a list of texts")
    return {"stop": texts}


_LENGTH: Final = float(2**31)
_RULES: Final[Mapping[str, _Rule]] = {
    # max_length counted the prompt as well; here each of these limits the answer alone.
    "max_length": _number("max_tokens", 1, _LENGTH, whole=True),
    "max_new_tokens": _number("max_tokens", 1, _LENGTH, whole=True),
    "max_tokens": _number("max_tokens", 1, _LENGTH, whole=True),
    "min_length": _number("min_tokens", 0, _LENGTH, whole=True),
    "min_new_tokens": _number("min_tokens", 0, _LENGTH, whole=True),
    "min_tokens": _number("min_tokens", 0, _LENGTH, whole=True),
    "do_sample": _sampling,
    "temperature": _number("temperature", 0, 2),
    "top_k": _number("top_k", -1, _LENGTH, whole=True),
    "top_p": _number("top_p", 0, 1),
    "min_p": _number("min_p", 0, 1),
    "typical_p": _only(1, 1.0, why="the engine has no typical sampling; use top_p or min_p"),
    "repetition_penalty": _number("repetition_penalty", 0.01, 100),
    "presence_penalty": _number("presence_penalty", -2, 2),
    "frequency_penalty": _number("frequency_penalty", -2, 2),
    "length_penalty": _number("length_penalty", -100, 100),
    "num_beams": _beams,
    "num_return_sequences": _only(1, why="/chat returns one answer; use /v1/chat/completions with n"),
    "early_stopping": _ignored,  # without beams it has no meaning, and the engine's beams stop as it says
    "seed": _number("seed", -(2**63), 2**63 - 1, whole=True),
    "stop": _stop,
    "stop_strings": _stop,
    "eos_token_id": _stop_tokens,
    "pad_token_id": _ignored,  # padding exists only in static batches
    "use_cache": _ignored,  # the engine always has its cache; the answer is the same
}
_TOP_LEVEL: Final = frozenset(
    {
        "prompt",
        "messages",
        "adapter",
        "model",
        "stream",
        "prefix",
        "return_full_text",
        "clean_up_tokenization_spaces",  # cosmetics of old tokenizers; the engine's text is already clean
        "handle_long_generation",
        "generate_kwargs",
    }
)
