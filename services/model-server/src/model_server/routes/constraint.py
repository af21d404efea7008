"""What a request demands of its answer's form, and the answer where the engine cannot make a grammar of that.

vLLM checks a JSON schema only roughly before it lets the engine compile it. What fails there comes back as an error without
words, which vLLM answers with 500, and OpenAI's clients ask again. It is the request's fault, and asking again changes nothing.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from model_server.lifecycle import CURRENT

_FREE: Final = frozenset({None, "text", "auto", "none"})
"""Values of `type` and of `tool_choice` that demand nothing."""


class Blame(msgspec.Struct, frozen=True):
    """The field of the request that is at fault, and why."""

    field: str
    message: str


def demand(request: Any) -> str:
    """Return the field of a request (any of vLLM's kinds) that says which form the answer must have; "" for none. Pure."""
    if getattr(request, "structured_outputs", None) is not None:
        return "structured_outputs"
    if getattr(getattr(request, "response_format", None), "type", None) not in _FREE:
        return "response_format"
    if getattr(getattr(getattr(request, "text", None), "format", None), "type", None) not in _FREE:
        return "text.format"
    choice = getattr(request, "tool_choice", None)
    # A choice of one tool is an object, and as such in no set of texts.
    if getattr(request, "tools", None) and (not isinstance(choice, str | None) or choice not in _FREE):
        return "tools"
    return ""


def explain(field: str) -> Blame:
    """Return what a client reads whose demand the engine could not follow. Pure."""
    return Blame(
        field,
        f"The engine cannot follow {field}: it can make no grammar of this JSON schema, pattern or grammar. It has no rules for "
        "references that never end, classes such as \\p{L} in patterns, negative or very high counts, and incomplete patterns. "
        "Simplify it; the server's log has the engine's words.",
    )


def note(request: Any) -> None:
    """Keep what a request demands with its HTTP request."""
    flight = CURRENT.get()
    if flight is not None:
        flight.demand = demand(request)


def blame() -> Blame | None:
    """Return what to say for the HTTP request that the running task works for, whose generation the engine gave up."""
    flight = CURRENT.get()
    return explain(flight.demand) if flight is not None and flight.demand else None
