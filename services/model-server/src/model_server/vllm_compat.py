"""Every import from vLLM that moves between releases, and every look at something that is not its public API.

Run with vLLM 0.32.0. The places of 0.33, and of 0.19.1 (engines/sm70), are listed from reading those releases. Nothing else
in this service imports vllm.entrypoints. Importing this module is cheap; its functions import vLLM (8 s, 1 GiB).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from model_server.arguments import Option, OptionKind, OptionTable
from model_server.sendable import unsendable

if TYPE_CHECKING:
    from fastapi import FastAPI

_APP: Final = ("vllm.entrypoints.launchers.app", "vllm.entrypoints.openai.api_server")
_APP_STATE: Final = ("vllm.entrypoints.launchers.api_server.app_state", "vllm.entrypoints.openai.api_server")
_OPERATORS_ROUTES: Final = frozenset({"/scale_elastic_ep", "/is_scaling_elastic_ep"})
"""They change how many engines there are, on every server that generates; a client of a model has no business there."""
_CLI: Final = (
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.common.cli_args",
    "vllm.entrypoints.openai.cli_args",
)
_PROTOCOL: Final = ("vllm.entrypoints.serve.engine.protocol", "vllm.entrypoints.openai.engine.protocol")
_API_UTILS: Final = ("vllm.entrypoints.serve.utils.api_utils", "vllm.entrypoints.utils")
_CONSTANTS: Final = ("vllm.entrypoints.launchers.utils.constants", "vllm.entrypoints.constants")
"""Where each thing lives: in 0.32 first, then elsewhere. Old places that only warn come last."""
CPU_WORKER: Final = "model_server.cpu_worker.Worker"
"""In place of vLLM's own where adapters are served on a CPU: there 0.32 lets them act on other requests of a batch."""


class EngineClient(Protocol):
    """The part of vLLM's AsyncLLM that this service uses."""

    vllm_config: Any
    model_config: Any
    output_processor: Any
    engine_core: Any

    async def get_supported_tasks(self) -> tuple[str, ...]:
        """Return what the model can do: "generate", "embed", ..."""

    async def add_lora(self, lora_request: Any) -> bool:
        """Load an adapter into every worker."""

    async def remove_lora(self, lora_id: int) -> bool:
        """Drop an adapter from every worker."""

    async def list_loras(self) -> set[int]:
        """Return the ids of the adapters that the engine holds."""


class ArgumentsRefusedError(Exception):
    """vLLM's own parser refused the arguments; the message is its own."""


class AdapterLeftError(Exception):
    """A request comes back to the engine with an adapter version that left it meanwhile."""


def version() -> str:
    """Return vLLM's version."""
    return str(importlib.import_module("vllm").__version__)


def current_platform() -> Any:
    """Return vLLM's platform object for the device of this process."""
    return importlib.import_module("vllm.platforms").current_platform


def option_table() -> OptionTable:
    """Return every option of the engine and its API server, by every spelling."""
    table: dict[str, Option] = {}
    for action in _parser()._actions:  # argparse has no public list of its options
        long_names = [name.removeprefix("--") for name in action.option_strings if name.startswith("--")]
        if not long_names or "help" in long_names:
            continue
        option = Option(name=long_names[0], kind=_kind(action))
        for spelled in action.option_strings:
            table[spelled.lstrip("-")] = option
    return table


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse and validate vLLM arguments. Raises ArgumentsRefusedError with vLLM's words."""
    cli = _first(_CLI)
    try:
        namespace: argparse.Namespace = _parser().parse_args(list(argv))
        cli.validate_parsed_serve_args(namespace)
    except (ValueError, TypeError, KeyError, argparse.ArgumentError) as error:
        raise ArgumentsRefusedError(str(error)) from error
    return namespace


def architecture_supported(architecture: str) -> bool:
    """Return whether vLLM has, or can borrow from transformers, a model class of that name."""
    registry = importlib.import_module("vllm.model_executor.models.registry").ModelRegistry
    if architecture in registry.get_supported_archs():
        return True
    return hasattr(importlib.import_module("transformers"), architecture)


def engine_config(namespace: argparse.Namespace) -> Any:
    """Return vLLM's whole configuration for parsed arguments. Raises ValueError (pydantic's included) with its words."""
    if namespace.enable_lora and namespace.worker_cls == "auto" and current_platform().is_cpu():
        namespace.worker_cls = CPU_WORKER
    arguments = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs.from_cli_args(namespace)
    return arguments.create_engine_config(usage_context=_usage_context())


async def start_engine(config: Any, namespace: argparse.Namespace) -> EngineClient:
    """Start the engine's processes and load the model. Blocks the event loop until they are up or have failed."""
    async_llm = importlib.import_module("vllm.v1.engine.async_llm").AsyncLLM
    engine = async_llm.from_vllm_config(
        vllm_config=config,
        usage_context=_usage_context(),
        enable_log_requests=namespace.enable_log_requests,
        aggregate_engine_logging=namespace.aggregate_engine_logging,
        disable_log_stats=namespace.disable_log_stats,
    )
    await engine.reset_mm_cache()  # the profile run left dummy data there
    client: EngineClient = engine
    forget_unsent(client)
    return client


def failed_exit_codes(error: BaseException) -> tuple[int, ...]:
    """Return the exit codes that vLLM's start error names: `Failed core proc(s): {'EngineCore_DP0': -9}`."""
    _, found, codes = str(error).partition("Failed core proc(s):")
    return tuple(int(code) for code in re.findall(r": (-?\d+)", codes)) if found else ()


async def build_app(engine: EngineClient, namespace: argparse.Namespace, models_class: type | None) -> FastAPI:
    """Build vLLM's OpenAI application around `engine`.

    `models_class` replaces OpenAIServingModels, the registry of served names: vLLM has no parameter for it.
    """
    app_module = _first(_APP)
    state_module = _first(_APP_STATE)
    if models_class is not None:
        setattr(state_module, "OpenAIServingModels", models_class)  # noqa: B010 - mypy sees a module without it
    tasks = await engine.get_supported_tasks()
    app: FastAPI = app_module.build_app(namespace, tasks, engine.model_config)
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") not in _OPERATORS_ROUTES]
    await state_module.init_app_state(engine, app.state, namespace, tasks)
    return app


def answer_unknown_models(app: FastAPI, answer: Callable[[str], Any]) -> None:
    """Let `answer` (name to ErrorResponse) speak for a model that is not served, on every route of vLLM's.

    vLLM's own answer names the base model alone, and there is no parameter for another. It stays where `answer` returns None.
    """
    for serving in app.state._state.values():  # starlette has no public list of what a state holds
        check = getattr(serving, "_check_model", None)
        if check is not None:
            serving._check_model = partial(_checked, check, answer)


def blame_requests(app: FastAPI, note: Callable[[Any], None], blame: Callable[[], Any]) -> None:
    """Let `blame` say what in a request made the engine give it up; `note` sees each request first, on every route of vLLM's.

    vLLM says "Internal server error" (500). That stays where `blame` returns None; else it is a 400 about its `field`, with its
    `message`.
    """
    for serving in app.state._state.values():
        if hasattr(serving, "_check_model"):
            serving._check_model = partial(_noted, serving._check_model, note)
        if hasattr(serving, "_raise_if_error"):
            serving._raise_if_error = partial(_blamed, serving._raise_if_error, blame)


async def _noted(check: Callable[[Any], Awaitable[Any]], note: Callable[[Any], None], request: Any) -> Any:
    note(request)
    return await check(request)


def _blamed(
    raise_if_error: Callable[[str | None, str], None],
    blame: Callable[[], Any],
    finish_reason: str | None,
    request_id: str,
) -> None:
    found = blame() if finish_reason == "error" else None
    if found is not None:
        raise _validation_error(found.message, found.field)
    raise_if_error(finish_reason, request_id)


async def _checked(check: Callable[[Any], Awaitable[Any]], answer: Callable[[str], Any], request: Any) -> Any:
    refused = await check(request)
    if refused is None or refused.error.code != HTTPStatus.NOT_FOUND:
        return refused
    return answer(request.model) or refused


def serving_models_class() -> type[Any]:
    """Return vLLM's OpenAIServingModels."""
    cls: type[Any] = importlib.import_module("vllm.entrypoints.openai.models.serving").OpenAIServingModels
    return cls


def lora_request(name: str, identity: int, path: str, base_model_name: str) -> Any:
    """Return a LoRARequest. `path` must be absolute: a relative one that is absent is looked up on a model hub."""
    cls = importlib.import_module("vllm.lora.request").LoRARequest
    return cls(lora_name=name, lora_int_id=identity, lora_path=path, base_model_name=base_model_name)


def model_card(identity: str, root: str, parent: str) -> Any:
    """Return an entry of /v1/models."""
    protocol = _first(_PROTOCOL)
    return protocol.ModelCard(id=identity, root=root, parent=parent, permission=[protocol.ModelPermission()])


def chat_completion_request(fields: dict[str, Any]) -> Any:
    """Return a validated ChatCompletionRequest; raises pydantic.ValidationError."""
    protocol = importlib.import_module("vllm.entrypoints.openai.chat_completion.protocol")
    return protocol.ChatCompletionRequest(**fields)


def completion_request(fields: dict[str, Any]) -> Any:
    """Return a validated CompletionRequest; raises pydantic.ValidationError."""
    protocol = importlib.import_module("vllm.entrypoints.openai.completion.protocol")
    return protocol.CompletionRequest(**fields)


def error_response(message: str, kind: str, status: int) -> Any:
    """Return an ErrorResponse about the request's `model`."""
    protocol = _first(_PROTOCOL)
    return protocol.ErrorResponse(error=protocol.ErrorInfo(message=message, type=kind, param="model", code=status))


def is_error(answer: Any) -> bool:
    """Return whether a handler's answer is an ErrorResponse."""
    cls = _first(_PROTOCOL).ErrorResponse
    return isinstance(answer, cls)


def is_stream(answer: Any) -> bool:
    """Return whether a handler's answer is a stream of server-sent events."""
    return isinstance(answer, AsyncIterator)


def with_cancellation(handler: Any) -> Any:
    """Decorate a route so that a client who goes away ends its generation."""
    return _first(_API_UTILS).with_cancellation(handler)


def metrics_registry() -> Any:
    """Return the Prometheus registry behind vLLM's /metrics."""
    return importlib.import_module("vllm.v1.metrics.prometheus").get_prometheus_registry()


def uvicorn_log_config(namespace: argparse.Namespace) -> dict[str, Any]:
    """Return uvicorn's logging configuration, without access lines for the quiet routes."""
    build = importlib.import_module("vllm.logging_utils").create_uvicorn_log_config
    paths = [path.strip() for path in (namespace.disable_access_log_for_endpoints or "").split(",") if path.strip()]
    config: dict[str, Any] = build(excluded_paths=paths, log_level=namespace.uvicorn_log_level)
    return config


def http_limits(namespace: argparse.Namespace) -> dict[str, int]:
    """Return the header limits for uvicorn that vLLM would use."""
    constants = _first(_CONSTANTS)
    return {
        "h11_max_incomplete_event_size": namespace.h11_max_incomplete_event_size
        or constants.H11_MAX_INCOMPLETE_EVENT_SIZE_DEFAULT,
        "h11_max_header_count": namespace.h11_max_header_count or constants.H11_MAX_HEADER_COUNT_DEFAULT,
    }


def keep_alive_seconds() -> int:
    """Return how long an idle connection is kept."""
    return int(importlib.import_module("vllm.envs").VLLM_HTTP_TIMEOUT_KEEP_ALIVE)


def engine_processes(engine: EngineClient) -> list[Any]:
    """Return the engine's child processes (multiprocessing.Process), empty where it runs none of its own."""
    core = getattr(engine, "engine_core", None)
    manager = getattr(getattr(core, "resources", None), "engine_manager", None)
    return list(getattr(manager, "processes", ()))


def unfinished(engine: EngineClient) -> int:
    """Return the number of sequences that are running or waiting."""
    return int(engine.output_processor.get_num_unfinished_requests())


def unfinished_by_adapter(engine: EngineClient, engine_name: str) -> int:
    """Return how many sequences in the engine use the adapter of that engine name."""
    states = engine.output_processor.request_states
    return sum(1 for state in states.values() if state.lora_name == engine_name)


def guard_sequences(engine: EngineClient, admitted: Set[int]) -> None:
    """Let no sequence into the engine whose adapter's id is not `admitted` at that time: it gets AdapterLeftError.

    The place is the one where vLLM notes a sequence before it awaits anything, so that none passes between a look at
    `unfinished_by_adapter` and what follows from it.
    """
    add = engine.output_processor.add_request

    def guarded(request: Any, *args: Any, **kwargs: Any) -> None:
        adapter = request.lora_request
        if adapter is not None and adapter.lora_int_id not in admitted:
            raise AdapterLeftError(f"adapter {adapter.lora_name} left while the client did not read")
        add(request, *args, **kwargs)

    engine.output_processor.add_request = guarded


def forget_unsent(engine: EngineClient) -> None:
    """Let a request that does not reach the engine's process leave no trace in this one.

    vLLM notes a sequence first and sends it then. Where sending fails, or its client goes away at that moment, the note stays: it
    counts as unfinished for ever, takes a place in the queue, and keeps its adapter in the engine.
    """
    core = engine.engine_core
    send = core.add_request_async

    async def sent(request: Any) -> None:
        try:
            await send(request)
        except BaseException as error:
            engine.output_processor.abort_requests([request.request_id], internal=True)
            with suppress(Exception):  # the engine may have got it; where it cannot be told, it has not
                await core.abort_requests_async([request.request_id])
            found = unsendable(request) if isinstance(error, Exception) else None
            if found is None:
                raise
            raise _validation_error(found.message, found.field) from error

    core.add_request_async = sent


async def shutdown(engine: EngineClient, seconds: float) -> None:
    """End the engine's processes within `seconds`."""
    reader = getattr(engine, "output_handler", None)
    if reader is not None:
        reader.cancel()  # it would log the end of the engine as a crash
    await asyncio.to_thread(engine.shutdown, timeout=seconds)  # type: ignore[attr-defined]


def prepare_process() -> None:
    """Raise the limit on open files as vLLM's own server does: each stream is a socket."""
    importlib.import_module("vllm.utils.system_utils").set_ulimit()


def max_batch(engine: EngineClient) -> int:
    """Return how many sequences the engine runs at once, over all its data-parallel ranks."""
    config = engine.vllm_config
    return int(config.scheduler_config.max_num_seqs) * int(config.parallel_config.data_parallel_size)


def kv_cache_tokens(engine: EngineClient) -> int:
    """Return how many tokens the KV cache of each data-parallel copy holds; 0 where vLLM does not say.

    Not blocks times block size: with layers of different kinds a token takes blocks in several groups.
    """
    return int(getattr(engine.vllm_config.cache_config, "kv_cache_size_tokens", None) or 0)


def has_chat_template(app: FastAPI) -> bool:
    """Return whether prompts can be put as a chat: a template was given, or comes with the tokenizer."""
    chat = getattr(app.state, "openai_serving_chat", None)
    if chat is None:
        return False
    return bool(chat.chat_template or getattr(chat.renderer.tokenizer, "chat_template", None))


def _validation_error(message: str, field: str) -> Exception:
    """Return what vLLM answers with 400, about one field of the request."""
    error: Exception = importlib.import_module("vllm.exceptions").VLLMValidationError(message, parameter=field)
    return error


def _usage_context() -> Any:
    return importlib.import_module("vllm.usage.usage_lib").UsageContext.OPENAI_API_SERVER


def _first(names: Sequence[str]) -> Any:
    """Import the first module that exists. An error inside one that exists is not hidden."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    raise ModuleNotFoundError(f"vLLM {version()} has none of {', '.join(names)}: this server does not know it")


def _parser() -> argparse.ArgumentParser:
    base = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser

    class Parser(base):  # type: ignore[misc, valid-type]
        """vLLM's parser, raising instead of ending the process."""

        def error(self, message: str) -> NoReturn:
            raise ArgumentsRefusedError(message)

    parser: argparse.ArgumentParser = _first(_CLI).make_arg_parser(Parser())
    return parser


def _kind(action: argparse.Action) -> OptionKind:
    if isinstance(action, argparse.BooleanOptionalAction):
        return OptionKind.TOGGLE
    if action.nargs == 0:
        return OptionKind.FLAG
    if action.nargs in ("+", "*"):
        return OptionKind.LIST
    return OptionKind.VALUE
