"""The report: how a pod of ours speaks upward.

A container writes it as JSON into the annotation `kaito.sh/report.<container>` of its own Pod, and its last one to its
termination log as well. The controller folds reports into Workspace.status. A report comes from a place that the
controller does not control, so `decode` accepts anything and never raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeAlias

import msgspec

VERSION: Final = 1
ANNOTATION_LIMIT: Final = 16 * 1024
"""Bytes of one report in an annotation (an object may hold 256 KiB of annotations in all)."""
TERMINATION_LIMIT: Final = 4096
"""Bytes that kubelet keeps of a termination log."""

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Amount: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=2**50)]
"""Bounded, so that an int64 of the status holds it in thousandths too."""
Instant: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]


class Progress(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How far a long step is. `total` 0 means unknown; `unit` is bytes, steps, rows, ..."""

    phase: str
    done: Count = 0
    total: Count = 0
    unit: str = ""


class EngineReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the engine really runs with, as read back from it."""

    version: str = ""
    dtype: str = ""
    max_model_len: Count = 0
    max_loras: Count = 0
    max_lora_rank: Count = 0
    device: str = ""
    kv_cache_tokens: Count = 0
    """Tokens that the KV cache holds, of each data-parallel copy; 0 where the engine does not say."""


class AdapterReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One adapter in this pod's engine: state is Pulling, Loading, Ready, Failed or Draining."""

    name: str
    image: str = ""
    digest: str = ""
    strength: str = ""
    state: str = ""
    reason: str = ""
    message: str = ""
    load_seconds: Amount = 0.0


class TuningReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where a training run stands. `loss` and `eval_loss` are None until there is one."""

    step: Count = 0
    total_steps: Count = 0
    epoch: Amount = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: Amount = 0.0
    eta_seconds: Count | None = None
    peak_memory_bytes: Count = 0
    checkpoint: str = ""


class OutputReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The pushed result."""

    image: str
    digest: str
    size_bytes: Count = 0


class Report(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One report. States by container:

    model-server: Pulling, Loading, Ready, Draining, Failed. tuner: Fetching, Checking, Training, Saving, Done, Failed.
    adapter-packager: Checking, Pushing, Done, Failed. `reason` is a value of kaito_api.conditions.Reason.
    """

    state: str
    at: Instant
    v: int = VERSION
    reason: str = ""
    message: str = ""
    progress: Progress | None = None
    engine: EngineReport | None = None
    adapters: list[AdapterReport] = []
    tuning: TuningReport | None = None
    output: OutputReport | None = None


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Report)


def encode(report: Report, limit: int = ANNOTATION_LIMIT) -> bytes:
    """Return the JSON of `report`, cut to at most `limit` bytes (`limit` must be at least 1024).

    First the messages become shorter, then adapters drop off the end (those that are well first), then everything but
    state, reason, time and a short message goes. What was cut is said in the message.
    """
    if limit < 1024:
        raise ValueError(f"limit must be at least 1024 bytes, got {limit}")
    for candidate in _shrunk(report):
        data = _encoded(candidate)
        if len(data) <= limit:
            return data
    return _encoded(
        Report(
            state=report.state[:32],
            at=report.at,
            reason=report.reason[:32],
            message=report.message[:64] + " (report cut: too long)",
        )
    )


def decode(text: str) -> Report | None:
    """Return the report in `text`, or None for anything else: junk, another version, over-long, no time or none in UTC."""
    if len(text) > ANNOTATION_LIMIT:
        return None
    try:
        report = _decoder.decode(text)
        report.at.astimezone(UTC)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError):
        return None
    return report if report.v == VERSION else None


def _encoded(report: Report) -> bytes:
    try:
        return _encoder.encode(report)
    except UnicodeEncodeError:
        # Words of a foreign file: its name, or half of a surrogate pair in its JSON. No JSON of ours can hold these.
        return _encoder.encode(_legible(msgspec.to_builtins(report)))


def _legible(value: Any) -> Any:
    """Return what a JSON document is made of, with a question mark for each thing in its texts that is no character."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, list):
        return [_legible(part) for part in value]
    if isinstance(value, dict):
        return {name: _legible(part) for name, part in value.items()}
    return value


def _shrunk(report: Report) -> Iterator[Report]:
    """Yield ever smaller versions of `report`, the whole one first."""
    yield report
    for length in (2048, 512, 128):
        yield _cut_messages(report, length)
    short = _cut_messages(report, 128)
    # The unhappy ones are what the reader needs, so the Ready ones give way first.
    adapters = sorted(short.adapters, key=lambda adapter: adapter.state == "Ready")
    total = len(adapters)
    while adapters:
        adapters = adapters[: len(adapters) // 2]
        note = f"{short.message} ({total - len(adapters)} of {total} adapters left out)".strip()
        yield msgspec.structs.replace(short, adapters=adapters, message=note)


def _cut_messages(report: Report, length: int) -> Report:
    return msgspec.structs.replace(
        report,
        message=_cut(report.message, length),
        adapters=[
            msgspec.structs.replace(adapter, message=_cut(adapter.message, length)) for adapter in report.adapters
        ],
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
