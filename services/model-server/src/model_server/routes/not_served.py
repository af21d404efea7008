"""The answer to a request for a model that is not served: what is served here, and how a wanted adapter fares.

404 for what asking again does not change; 503 with Retry-After for an adapter that is on its way, because OpenAI's clients
ask again by themselves after a 503 and not after a 404. A failed adapter is a 404: its cause outlasts their patience.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec

from kaito_api.report import AdapterReport
from kaito_api.workspace_status import AdapterState
from model_server import vllm_compat
from model_server.lifecycle import CURRENT
from model_server.limits import RETRY_AFTER_ADAPTER_SECONDS

_LISTED: Final = 10
"""Adapters that are named: as many as a Workspace may have."""
_MAX_NAME: Final = 100
_MAX_CAUSE: Final = 600
_ON_ITS_WAY: Final = frozenset({AdapterState.PENDING, AdapterState.PULLING, AdapterState.LOADING})


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An error as OpenAI's API words it, and the seconds after which to ask again; 0: not at all."""

    status: int
    type: str
    message: str
    retry_after: int = 0


def refuse(name: str, *, base: str, adapters: Collection[str], report: AdapterReport | None) -> Refusal:
    """Decide about a request for `name`, which is not served. Pure.

    `base` and `adapters` are served now; `report` is of the adapter of that name, if one is wanted.
    """
    there = _there(base, adapters)
    if report is None:
        message = f"The model `{_cut(name, _MAX_NAME)}` does not exist. {there}"
        return Refusal(status=404, type="NotFoundError", message=message)
    if report.state in _ON_ITS_WAY:
        message = f"The adapter `{name}` is not served yet ({report.state}): ask again in a few seconds. {there}"
        return Refusal(
            status=503,
            type="ServiceUnavailableError",
            message=message,
            retry_after=RETRY_AFTER_ADAPTER_SECONDS,
        )
    how = f"{report.state}, {report.reason}" if report.reason else report.state
    cause = f": {_cut(report.message.rstrip('.'), _MAX_CAUSE)}" if report.message else ""
    return Refusal(
        status=404, type="NotFoundError", message=f"The adapter `{name}` is not served ({how}){cause}. {there}"
    )


def answering(models: Any, unserved: Callable[[str], AdapterReport | None]) -> Callable[[str], Any]:
    """Return what answers for a name that `models` (vLLM's registry of served names) does not have, in vLLM's form.

    `unserved` tells how a wanted adapter fares. The HTTP request is noted as one for that adapter, and when to come again.
    """

    def answer(name: str) -> Any:
        if name in models.lora_requests:
            return None  # served, and refused all the same: a route of vLLM's that knows no adapters
        report = unserved(name)
        refusal = refuse(name, base=models.base_model_paths[0].name, adapters=models.lora_requests, report=report)
        flight = CURRENT.get()
        if flight is not None:
            flight.retry_after = refusal.retry_after
            flight.adapter = report.name if report is not None else ""
        return vllm_compat.error_response(refusal.message, refusal.type, refusal.status)

    return answer


def _there(base: str, adapters: Collection[str]) -> str:
    names = [f"`{name}`" for name in sorted(adapters)]
    if not names:
        return f"Served here: the model `{base}`, and no adapter."
    listed = ", ".join(names[:_LISTED])
    more = f" and {len(names) - _LISTED} more (GET /v1/models lists all)" if len(names) > _LISTED else ""
    return f"Served here: the model `{base}`, the adapter{'s' if len(names) > 1 else ''} {listed}{more}."


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
