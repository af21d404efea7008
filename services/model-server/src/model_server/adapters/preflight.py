"""Looks at an adapter's files before the engine does: what it would refuse, or silently get wrong, is refused here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from kaito_api.adapter import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterReason,
    HeaderError,
    Problem,
    Verdict,
    check,
    check_files,
    parse_header,
)
from kaito_api.adapter_start import CONFIG_LIMIT
from kaito_api.base_shapes import Base, base_from_config


class AdapterRefusedError(Exception):
    """The adapter cannot be served by this engine; trying again does not help. `reason` is stable."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.reason = str(problem.reason)


def read_base(model: Path, name: str) -> Base | None:
    """Return the facts about the base model, None where it has no config.json."""
    try:
        return base_from_config(name, json.loads((model / "config.json").read_bytes()))
    except (OSError, ValueError):
        return None


def inspect(folder: Path, base: Base | None, max_rank: int | None) -> Verdict:
    """Check the adapter in `folder`. Blocks. Raises AdapterRefusedError for the first problem."""
    _raise(check_files(entry.name for entry in folder.iterdir()))
    config = _config(folder / CONFIG_FILE)
    weights = folder / WEIGHTS_FILE
    try:
        with weights.open("rb") as file:
            prefix = b""
            while isinstance(header := parse_header(prefix), int):
                more = file.read(header - len(prefix))
                if not more:
                    raise HeaderError("the file ends inside its header")
                prefix += more
    except HeaderError as error:
        problem = Problem(AdapterReason.WEIGHTS_INVALID, f"{WEIGHTS_FILE}: {error}")
        raise AdapterRefusedError(problem) from error
    verdict = check(config, header, data_bytes=weights.stat().st_size - len(prefix), base=base, max_rank=max_rank)
    _raise(verdict.problems)
    return verdict


def _config(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        content = file.read(CONFIG_LIMIT)
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        problem = Problem(AdapterReason.CONFIG_INVALID, f"{CONFIG_FILE} cannot be read: {error}")
        raise AdapterRefusedError(problem) from error


def _raise(problems: tuple[Problem, ...]) -> None:
    if problems:
        raise AdapterRefusedError(problems[0])
