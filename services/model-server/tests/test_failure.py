"""failure.diagnose: the ruins of an engine into a code and a sentence."""

from __future__ import annotations

import pytest

from model_server.exits import ExitCode
from model_server.failure import Ruins, diagnose, last_error

KILLED_WORKER = (
    "ERROR 11-21 [x.py:1] Worker proc VllmWorker-0 died unexpectedly (exit code: None), shutting down executor.\n"
    "ERROR 11-21 [core.py:1] RuntimeError: Executor failed.\n"
)


@pytest.mark.parametrize(
    ("ruins", "code", "words"),
    [
        (Ruins(oom_kills=1), ExitCode.OUT_OF_MEMORY, "the kernel killed the engine for lack of memory: give"),
        (Ruins(exit_codes=(-9,)), ExitCode.OUT_OF_MEMORY, "SIGKILL"),
        (Ruins(exit_codes=(-9,), oom_kills=0), ExitCode.ENGINE_FAILED, "SIGKILL"),
        (Ruins(errors=KILLED_WORKER), ExitCode.OUT_OF_MEMORY, "more memory"),
        (Ruins(errors=KILLED_WORKER, oom_kills=0), ExitCode.ENGINE_FAILED, "VllmWorker-0 was killed"),
        (Ruins(errors="torch.OutOfMemoryError: CUDA out of memory. Tried"), ExitCode.OUT_OF_MEMORY, "did not fit"),
        (Ruins(errors="ValueError: No available memory for the cache blocks."), ExitCode.OUT_OF_MEMORY, "KV cache"),
        (
            Ruins(errors="ValueError: Free memory on device cuda:0 (3/80 GiB) on startup is less than desired GPU"),
            ExitCode.OUT_OF_MEMORY,
            "another process",
        ),
        (
            Ruins(errors="ValueError: (9.1 GiB KV cache is needed, which is larger than the available KV cache memory"),
            ExitCode.OUT_OF_MEMORY,
            "max-model-len",
        ),
        (
            Ruins(errors="ValueError: Model architectures ['X'] are not supported for now."),
            ExitCode.WEIGHTS_INVALID,
            "no implementation",
        ),
        (Ruins(errors="ValueError: LoRA is not supported for X"), ExitCode.CONFIG_INVALID, "kaito.sh/lora"),
        (Ruins(exit_codes=(-11,)), ExitCode.ENGINE_FAILED, "SIGSEGV"),
        (
            Ruins(errors="RuntimeError: cancelled", exit_codes=(1, -9), oom_kills=0, while_serving=True),
            ExitCode.ENGINE_FAILED,
            "SIGKILL; the last error is RuntimeError: cancelled",
        ),
        (Ruins(exit_codes=(0, 3)), ExitCode.ENGINE_FAILED, "status 3"),
        (Ruins(), ExitCode.ENGINE_FAILED, "no reason"),
        (Ruins(errors="KeyError: 'x'", while_serving=True), ExitCode.ENGINE_FAILED, "while serving: KeyError: 'x'"),
    ],
)
def test_diagnose(ruins: Ruins, code: ExitCode, words: str) -> None:
    error = diagnose(ruins)
    assert error.code is code
    assert words in str(error)


def test_a_kill_by_the_kernel_has_the_reason_that_kubelet_s_word_of_it_has() -> None:
    """Which process the kernel takes is chance: with PID 1 among them kubelet alone can tell."""
    assert diagnose(Ruins(oom_kills=1)).reason == "ContainerOOMKilled"
    assert diagnose(Ruins(errors="torch.OutOfMemoryError: CUDA out of memory. Tried")).reason == "OutOfMemory"


def test_the_root_cause_is_not_its_echo() -> None:
    log = "ERROR [a.py:1] KeyError: 'lora'\nERROR [b.py:2] RuntimeError: Engine core initialization failed. See above."
    assert last_error(log) == "KeyError: 'lora'"


def test_a_long_cause_is_cut() -> None:
    assert len(last_error("ValueError: " + "x" * 5000)) <= 400
