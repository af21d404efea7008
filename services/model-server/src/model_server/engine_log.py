"""A file with the errors of every engine process.

vLLM's processes log to stderr, which the parent cannot read back. A logging configuration that all of them inherit adds
a file for records of level ERROR; after a failure its tail names the root cause.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

TAIL_BYTES: Final = 64 * 1024
CONFIG_VARIABLE: Final = "VLLM_LOGGING_CONFIG_PATH"


class EngineLog:
    """The error file of one start of the engine, and the logging configuration that fills it."""

    def __init__(self, directory: Path) -> None:
        self.config_path = directory / "engine-logging.json"
        self.errors_path = directory / "engine-errors.log"

    def prepare(self, level: str) -> dict[str, str]:
        """Write the configuration; return the environment that makes vLLM's processes use it."""
        self.config_path.parent.mkdir(parents=True, exist_ok=True)
        self.errors_path.write_bytes(b"")
        self.config_path.write_text(json.dumps(configuration(level, self.errors_path)))
        return {CONFIG_VARIABLE: str(self.config_path)}

    def tail(self) -> str:
        """Return the last errors, "" if there are none."""
        try:
            with self.errors_path.open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - TAIL_BYTES))
                return file.read().decode(errors="replace")
        except OSError:
            return ""


def configuration(level: str, errors_path: Path) -> dict[str, Any]:
    """Return a logging.config dictionary: everything to stderr, errors also to `errors_path`."""
    line = "%(levelname)s %(asctime)s [%(filename)s:%(lineno)d] %(message)s"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "vllm": {"class": "vllm.logging_utils.NewLineFormatter", "format": line, "datefmt": "%m-%d %H:%M:%S"}
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "vllm",
                "level": level,
                "stream": "ext://sys.stderr",
            },
            "errors": {
                "class": "logging.FileHandler",
                "formatter": "vllm",
                "level": "ERROR",
                "filename": str(errors_path),
                "delay": True,
            },
        },
        "loggers": {"vllm": {"handlers": ["stderr", "errors"], "level": level, "propagate": False}},
    }
