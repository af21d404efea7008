"""Which part of a request cannot be sent to the engine's process. Pure.

Requests cross a pipe as MessagePack: text goes as UTF-8, which has no lone surrogates, and numbers have 64 bits. JSON allows
both, and vLLM looks at neither.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

_LOWEST: Final = -(2**63)
_HIGHEST: Final = 2**64 - 1


class Unsendable(msgspec.Struct, frozen=True):
    """The name of the field nearest to the part, and what is wrong with it, in words for the client."""

    field: str
    message: str


def unsendable(request: Any, field: str = "") -> Unsendable | None:
    """Return the first part of a request that cannot be sent, None if all can."""
    if isinstance(request, str):
        problem = "holds half of a surrogate pair, which is no character: send whole characters"
        return None if _is_text(request) else Unsendable(field, f"{field} {problem}")
    if isinstance(request, int):
        return None if _LOWEST <= request <= _HIGHEST else Unsendable(field, f"{field} needs more than 64 bits")
    for name, part in _parts(request):
        found = unsendable(part, name or field)
        if found is not None:
            return found
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what `value` is made of, each part with the name of its field, or ""."""
    if isinstance(value, msgspec.Struct):
        yield from ((name, getattr(value, name)) for name in value.__struct_fields__)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((item.name, getattr(value, item.name)) for item in dataclasses.fields(value))
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield "", key
            yield "", part
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from (("", part) for part in value)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
