"""An adapter judged by the beginnings of its files, as a registry serves them by Range: before anything is pulled or bought.

Pure. The caller brings the bytes (`kaito_oci.peek` with `NEEDS`). They are not verified against a digest, so the verdict may
refuse early and never vouch: what passes is checked again once it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

from kaito_api.adapter import (
    CONFIG_FILE,
    MAX_HEADER,
    WEIGHTS_FILE,
    AdapterReason,
    HeaderError,
    Problem,
    Verdict,
    check,
    check_files,
    parse_header,
)
from kaito_api.base_shapes import Base

IMAGE_FOLDER: Final = "data"
"""Where an adapter image keeps its files (KAITO's layout). Artifacts have them at the top."""
CONFIG_LIMIT: Final = 1 << 20
"""Bytes of adapter_config.json; real ones have one kilobyte."""


class Beginning(msgspec.Struct, frozen=True):
    """The first bytes of a file, and the size of all of it."""

    content: bytes
    size: int


def judge(
    files: Mapping[str, Beginning],
    seen: Iterable[str],
    *,
    base: Base | None = None,
    max_rank: int | None = None,
    other_presets: Collection[str] = (),
) -> Verdict | None:
    """Return what can be said; None where the beginnings were not found (they lie behind too much else).

    `seen` are the names of the files that were passed on the way: a pickle in place of the weights is refused.
    """
    if CONFIG_FILE not in files or WEIGHTS_FILE not in files:
        pickles = [problem for problem in check_files(seen) if problem.reason is AdapterReason.PICKLE_REFUSED]
        return _refused(pickles[0]) if pickles else None
    try:
        config = msgspec.json.decode(files[CONFIG_FILE].content, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        return _refused(Problem(AdapterReason.CONFIG_INVALID, f"{CONFIG_FILE} cannot be read: {error}"))
    weights = files[WEIGHTS_FILE]
    try:
        header = parse_header(weights.content)
    except HeaderError as error:
        return _refused(Problem(AdapterReason.WEIGHTS_INVALID, f"{WEIGHTS_FILE}: {error}"))
    if isinstance(header, int):
        cut = Problem(AdapterReason.WEIGHTS_INVALID, f"{WEIGHTS_FILE}: the file ends inside its header")
        return _refused(cut) if len(weights.content) == weights.size else None
    length = 8 + int.from_bytes(weights.content[:8], "little")
    return check(
        config,
        header,
        data_bytes=weights.size - length,
        base=base,
        max_rank=max_rank,
        other_presets=other_presets,
    )


def _refused(problem: Problem) -> Verdict:
    return Verdict(problems=(problem,), warnings=(), rank=0, method="lora", parameters=0, base_name="")


def _whole_config(have: bytes) -> int:
    del have
    return CONFIG_LIMIT


def _header(have: bytes) -> int:
    """Bytes of the file that are needed; those at hand are enough where they are no header."""
    try:
        found = parse_header(have)
    except HeaderError:
        return len(have)
    return min(found, MAX_HEADER + 8) if isinstance(found, int) else len(have)


NEEDS: Final[Mapping[str, Callable[[bytes], int]]] = {CONFIG_FILE: _whole_config, WEIGHTS_FILE: _header}
"""For each file, how many bytes from its start are needed, given those at hand."""
