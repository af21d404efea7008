"""One JSON object a line on stderr; fields of the running task come along through a context variable.

The message is a constant; data are fields: `logger.info("claim launched", extra={"pool": name})`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

import msgspec

_NO_FIELDS: MappingProxyType[str, object] = MappingProxyType({})
_context: ContextVar[MappingProxyType[str, object]] = ContextVar("kubecore_log_context", default=_NO_FIELDS)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_encoder = msgspec.json.Encoder(enc_hook=str)


@contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Add fields to every log line of this task, and of the tasks started inside, until the block ends."""
    token = _context.set(MappingProxyType({**_context.get(), **fields}))
    try:
        yield
    finally:
        _context.reset(token)


class JsonFormatter(logging.Formatter):
    """time, level, logger, message, then the fields of the context and of the call. Unknown types are written as text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context.get(),
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _encoder.encode(line).decode()


def setup_logging(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send the root logger's lines as JSON to `stream` (stderr by default). Raises ValueError for an unknown level."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
