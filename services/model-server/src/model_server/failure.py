"""From the ruins of an engine to one code and one sentence. Pure.

The engine's processes die with a traceback in their log and an exit status; the parent only learns "engine core
initialization failed". This module is the edge where foreign text is translated, and the only place that matches it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from signal import Signals
from typing import Final

import msgspec

from kaito_api.conditions import Reason
from model_server.exits import ExitCode, FatalError

_MEMORY: Final = (
    (
        re.compile(r"No available memory for the cache blocks", re.IGNORECASE),
        "no memory is left for the KV cache after loading the weights: lower max-num-batched-tokens, raise "
        "gpu-memory-utilization, or choose an instance type with more GPU memory",
    ),
    (
        re.compile(r"Free memory on device .{0,200}?less than desired", re.IGNORECASE | re.DOTALL),
        "another process holds memory of this GPU: lower gpu-memory-utilization or free the GPU",
    ),
    (
        re.compile(r"KV cache is needed, which is larger than the available", re.IGNORECASE),
        "the KV cache has no room for one request of the longest length: set max-model-len lower, or auto",
    ),
    (
        re.compile(r"OutOfMemoryError|CUDA out of memory|can't allocate memory|std::bad_alloc|MemoryError"),
        "the model did not fit into memory: lower max-model-len or max-num-seqs, or choose a larger instance type",
    ),
)
_ARCHITECTURE: Final = re.compile(r"[Mm]odel architectures? .{0,200}? (?:are|is) not supported")
_LORA: Final = re.compile(r"LoRA is not supported|does not support LoRA", re.IGNORECASE)
_WORKER_DIED: Final = re.compile(r"Worker proc (\S+) died unexpectedly")
_ERROR_LINE: Final = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt)): (.+)$")
_PREFIX: Final = re.compile(r"^.*?\] ")
_MESSAGE_LIMIT: Final = 400


class Ruins(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of the engine: its last errors, its processes' exit codes and the kernel's OOM kills since start."""

    errors: str = ""
    exit_codes: tuple[int, ...] = ()
    """As multiprocessing gives them: negative for a signal."""
    oom_kills: int | None = None
    """Increase of the cgroup's oom_kill counter; None where it cannot be read."""
    while_serving: bool = False


def diagnose(ruins: Ruins) -> FatalError:
    """Return the error to end with."""
    if (ruins.oom_kills or 0) > 0:
        return _killed("the kernel killed the engine for lack of memory", Reason.CONTAINER_OOM_KILLED)
    for pattern, advice in _MEMORY:
        if pattern.search(ruins.errors):
            return FatalError(ExitCode.OUT_OF_MEMORY, f"the engine ran out of memory; {advice}")
    cause = last_error(ruins.errors)
    worker = _WORKER_DIED.search(ruins.errors)
    if worker is not None and not cause:
        cause = f"its worker process {worker[1]} was killed"
    killed = -Signals.SIGKILL in ruins.exit_codes or (worker is not None and cause.endswith("was killed"))
    if killed and ruins.oom_kills is None:
        return _killed("a process of the engine was killed (SIGKILL), most likely for lack of memory", "")
    if _ARCHITECTURE.search(ruins.errors):
        return FatalError(ExitCode.WEIGHTS_INVALID, f"the engine has no implementation of this model: {cause}")
    if _LORA.search(ruins.errors):
        return FatalError(
            ExitCode.CONFIG_INVALID,
            "the engine cannot load adapters into this model: set the annotation kaito.sh/lora to disabled",
        )
    when = "while serving" if ruins.while_serving else "at start"
    cause = _blame(cause, ruins.exit_codes)
    return FatalError(
        ExitCode.ENGINE_FAILED, f"the engine failed {when}: {cause.rstrip('.')}. The pod's log has the traceback"
    )


def last_error(text: str) -> str:
    """Return the last "SomethingError: words" line of a log, without its prefix and cut to a readable length.

    Lines with which a process only says that another one failed do not count.
    """
    found = ""
    for line in text.splitlines():
        match = _ERROR_LINE.match(_PREFIX.sub("", line).strip())
        if match is None:
            continue
        words = f"{match[1]}: {match[2]}"
        if _is_echo(words):
            continue
        found = words
    return found if len(found) <= _MESSAGE_LIMIT else found[: _MESSAGE_LIMIT - 1] + "…"


def _is_echo(words: str) -> bool:
    return any(
        phrase in words
        for phrase in (
            "Engine core initialization failed",
            "WorkerProc initialization failed",
            "EngineDeadError",
            "Executor failed.",
        )
    )


def _killed(what: str, reason: str) -> FatalError:
    advice = "give the pod more memory, or lower max-num-seqs, max-model-len or cpu-offload-gb"
    return FatalError(ExitCode.OUT_OF_MEMORY, f"{what}: {advice}", reason)


def _blame(cause: str, codes: Sequence[int]) -> str:
    """Return why it ended. What others log about a process that got a signal is a consequence of it."""
    status = _status(codes)
    if cause and any(code < 0 for code in codes):
        return f"{status}; the last error is {cause}"
    return cause or status or "it gave no reason"


def _status(codes: Sequence[int]) -> str:
    bad = sorted(code for code in codes if code != 0)
    if not bad:
        return ""
    code = bad[0]
    return f"its process ended by {Signals(-code).name}" if code < 0 else f"its process ended with status {code}"
