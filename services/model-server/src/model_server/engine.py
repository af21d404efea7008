"""The engine's lifetime: prepared, started, watched, ended. Every way to fail becomes a FatalError with words."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from kaito_api.report import EngineReport
from kubecore import cgroup
from model_server import config_file, device, launch, vllm_compat, weights
from model_server.config_file import InferenceConfig
from model_server.engine_log import EngineLog
from model_server.exits import ExitCode, FatalError
from model_server.failure import Ruins, diagnose
from model_server.options import ServeOptions
from model_server.vllm_compat import EngineClient

SHUTDOWN_SECONDS: Final = 5.0
"""How long the engine's processes get to end after the drain; they are killed after that."""
_EXIT_CODE_SECONDS: Final = 10.0
_EXIT_CODE_PAUSE: Final = 0.02
_logger = logging.getLogger(__name__)


class EngineLauncher:
    """Everything that is decided before the engine starts, and then the start itself."""

    def __init__(self, options: ServeOptions, scratch: Path) -> None:
        self._options = options
        self._scratch = scratch
        self._log = EngineLog(scratch)
        self._oom_kills = cgroup.oom_kills()
        self.device_name = ""

    def check_inputs(self) -> tuple[weights.ModelFacts, InferenceConfig]:
        """Look at weights and configuration; needs neither vLLM nor a device. Raises FatalError."""
        facts = weights.inspect(self._options.model, self._options.architecture)
        return facts, read_config(self._options.config)

    def set_environment(self) -> None:
        """Set what vLLM reads when it is imported, for this process and the engine's."""
        for name in launch.UNSAFE_ENVIRONMENT:
            os.environ.pop(name, None)
        os.environ.update(launch.ENVIRONMENT)
        defaults = launch.ENVIRONMENT_DEFAULTS | {launch.CACHE_VARIABLE: f"{tempfile.gettempdir()}/torchinductor"}
        for name, value in defaults.items():
            os.environ.setdefault(name, value)
        os.environ.update(self._log.prepare(os.environ.get("VLLM_LOGGING_LEVEL", "INFO")))
        os.environ.update(launch.scratch_environment(str(self._scratch)))

    def plan(self, facts: weights.ModelFacts, config: InferenceConfig) -> argparse.Namespace:
        """Import vLLM, look at the device and settle the arguments. Raises FatalError."""
        found = device.probe()
        device.check(found)
        self.device_name = found.name
        if found.kind == "cpu":
            for name, value in launch.CPU_ENVIRONMENT_DEFAULTS.items():
                os.environ.setdefault(name, value)  # read by the engine's processes when they import torch
        if facts.architecture and not vllm_compat.architecture_supported(facts.architecture):
            raise FatalError(
                ExitCode.WEIGHTS_INVALID,
                f"vLLM {vllm_compat.version()} has no implementation of {facts.architecture}; choose another model",
            )
        options = self._options
        planned = launch.Planned(
            model=str(options.model.resolve()),
            served_model_name=options.served_model_name,
            host=options.host,
            port=options.port,
            bound=options.dtype_bound,
            engine_arguments=options.engine_arguments,
        )
        plan = launch.plan(planned, config, found, vllm_compat.option_table(), facts.dtype)
        for note in plan.notes:
            _logger.warning("launch note", extra={"note": note})
        _logger.info("engine arguments", extra={"arguments": " ".join(plan.argv), "device": found.name})
        try:
            return vllm_compat.parse_arguments(plan.argv)
        except vllm_compat.ArgumentsRefusedError as error:
            raise self._refused(config, str(error)) from error

    @asynccontextmanager
    async def run(self, namespace: argparse.Namespace, config: InferenceConfig) -> AsyncIterator[EngineClient]:
        """Start the engine, and end it when the context does."""
        try:
            engine_config = vllm_compat.engine_config(namespace)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise self._refused(config, " ".join(str(error).split())) from error
        try:
            engine = await vllm_compat.start_engine(engine_config, namespace)
        except Exception as error:
            raise self._fallen(str(error), vllm_compat.failed_exit_codes(error), while_serving=False) from error
        try:
            yield engine
        finally:
            await vllm_compat.shutdown(engine, SHUTDOWN_SECONDS)

    async def death(self, engine: EngineClient) -> FatalError:
        """Wait until a process of the engine ends by itself; return why."""
        loop = asyncio.get_running_loop()
        processes = vllm_compat.engine_processes(engine)
        ended = asyncio.Event()
        for process in processes:
            loop.add_reader(process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            for process in processes:
                loop.remove_reader(process.sentinel)
        codes = await asyncio.to_thread(_exit_codes, processes)
        return self._fallen("", codes, while_serving=True)

    def _fallen(self, words: str, exit_codes: Sequence[int], *, while_serving: bool) -> FatalError:
        errors = self._log.tail() or f"RuntimeError: {words}"
        kills = cgroup.oom_kills_since(self._oom_kills)
        return diagnose(
            Ruins(errors=errors, exit_codes=tuple(exit_codes), oom_kills=kills, while_serving=while_serving)
        )

    def _refused(self, config: InferenceConfig, words: str) -> FatalError:
        """Arguments that vLLM refuses: the user's file is the first suspect, if there is one."""
        fallen = diagnose(Ruins(errors=f"ValueError: {words}"))
        if fallen.code is not ExitCode.ENGINE_FAILED:
            return fallen
        origin = "inference_config.yaml" if config.vllm else "the engine arguments"
        return FatalError(ExitCode.CONFIG_INVALID, f"vLLM refuses {origin}: {words[:600]}")


def read_config(path: Path | None) -> InferenceConfig:
    """Read the user's file. Raises FatalError(CONFIG_INVALID)."""
    if path is None:
        return InferenceConfig()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FatalError(
            ExitCode.CONFIG_INVALID,
            f"there is no {path}: the ConfigMap named in inference.config needs the key {path.name}",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise FatalError(ExitCode.CONFIG_INVALID, f"{path} cannot be read: {error}") from error
    return config_file.parse(text, path.name)


def describe(engine: EngineClient, found: str) -> EngineReport:
    """Return what the engine really runs with, read back from it."""
    config = engine.vllm_config
    lora = config.lora_config
    return EngineReport(
        version=vllm_compat.version(),
        dtype=str(engine.model_config.dtype).removeprefix("torch."),
        max_model_len=int(engine.model_config.max_model_len),
        max_loras=int(lora.max_loras) if lora else 0,
        max_lora_rank=int(lora.max_lora_rank) if lora else 0,
        device=found,
        kv_cache_tokens=vllm_compat.kv_cache_tokens(engine),
    )


def _exit_codes(processes: Sequence[Any]) -> list[int]:
    """Return the exit codes of those that have ended."""
    deadline = time.monotonic() + _EXIT_CODE_SECONDS
    # vLLM's own watcher reaps them too; whoever comes second sees no code until the first has stored it.
    while any(process.exitcode is None for process in processes) and time.monotonic() < deadline:
        time.sleep(_EXIT_CODE_PAUSE)
    return [process.exitcode for process in processes if process.exitcode is not None]
