"""The command line of `model-server`. Every setting is also an environment variable, MODEL_SERVER_<NAME>."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from kaito_api.meta import Key
from kubecore import flags
from model_server.dtype import Bound
from model_server.exits import ExitCode, FatalError

ENVIRONMENT_PREFIX: Final = "MODEL_SERVER_"
DEFAULT_PORT: Final = 5000
_INIT: Final = ("auto", "always", "never")
DEFAULT_DRAIN_SECONDS: Final = 25.0
"""Fits Kubernetes' default terminationGracePeriodSeconds of 30, engine shutdown included."""


class RegistryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How registries are spoken to, whichever command does it."""

    plain_http: tuple[str, ...] = ()
    trust_realms: tuple[str, ...] = ()
    ca_bundle: str = ""


class ServeOptions(RegistryOptions, frozen=True, kw_only=True):
    """Settings of `model-server serve`."""

    model: Path
    served_model_name: str
    workspace: Key | None
    host: str
    port: int
    config: Path | None
    dtype_bound: Bound
    adapters_dir: Path
    adapter_store: Path
    architecture: str
    drain_seconds: float
    rate_limit: bool
    api_keys_dir: Path | None
    """None: whoever reaches the port may ask."""
    init: str
    engine_arguments: tuple[str, ...]


class FetchOptions(RegistryOptions, frozen=True, kw_only=True):
    """Settings of `model-server fetch`."""

    source: str
    to: Path
    workspace: Key | None
    pull_secrets: tuple[str, ...]
    max_rank: int | None = None
    """Highest rank of an adapter that the engine will take; None: not known here."""
    data: bool = False
    """The source is a data set: it is not looked at as weights."""


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of ending the process with its own code."""

    def error(self, message: str) -> NoReturn:
        raise FatalError(ExitCode.USAGE, f"{self.prog}: {message}. See {self.prog} --help")


def parse(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> ServeOptions | FetchOptions:
    """Parse the command line; what follows `--` goes to vLLM. Raises FatalError(USAGE)."""
    own, engine = _split(argv)
    namespace = build_parser(environment).parse_args(own)
    if namespace.command == "fetch":
        if engine:
            raise FatalError(ExitCode.USAGE, "model-server fetch takes no engine arguments after --")
        return FetchOptions(
            source=namespace.source,
            to=namespace.to,
            workspace=namespace.workspace,
            **_registries(namespace),
            pull_secrets=tuple(namespace.pull_secret),
            max_rank=namespace.max_lora_rank,
            data=namespace.data,
        )
    return ServeOptions(
        model=namespace.model,
        served_model_name=namespace.served_model_name,
        workspace=namespace.workspace,
        host=namespace.host,
        port=namespace.port,
        config=namespace.config,
        dtype_bound=Bound(namespace.dtype_bound),
        adapters_dir=namespace.adapters_dir,
        adapter_store=namespace.adapter_store,
        architecture=namespace.architecture,
        drain_seconds=namespace.drain_seconds,
        rate_limit=not namespace.disable_rate_limit,
        api_keys_dir=namespace.api_keys_dir,
        **_registries(namespace),
        init=namespace.init,
        engine_arguments=tuple(engine),
    )


def build_parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """Return the parser, with defaults taken from `environment`."""
    parser = _Parser(prog="model-server", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    _add_serve(commands.add_parser("serve", help="serve a model directory; engine arguments follow --"), environment)
    _add_fetch(commands.add_parser("fetch", help="put a model's weights, or a data set, into a directory"), environment)
    return parser


def _add_serve(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    def default(name: str, otherwise: str) -> str:
        return environment.get(ENVIRONMENT_PREFIX + name, otherwise)

    add = parser.add_argument
    add("--model", type=Path, default=Path(default("MODEL", "/workspace/weights")), help="directory with the weights")
    add("--served-model-name", required=True, help="the model's name for clients")
    _add_workspace(parser, environment)
    add("--host", default=default("HOST", ""), help="address to listen on (default: all)")
    add("--port", type=flags.port, default=default("PORT", str(DEFAULT_PORT)), help="port to listen on (default: 5000)")
    add("--config", type=Path, default=_path(default("CONFIG", "")), help="the user's inference_config.yaml")
    add(
        "--dtype-bound",
        type=flags.one_of(*Bound),
        choices=[bound.value for bound in Bound],
        default=default("DTYPE_BOUND", Bound.BFLOAT16.value),
        help="widest floating point type that the planned GPUs compute in",
    )
    mounted, pulled = Path(default("ADAPTERS_DIR", "/mnt/adapter")), Path(default("ADAPTER_STORE", "/adapters"))
    served = "each sub-directory with an adapter_config.json is served under its name"
    add("--adapters-dir", type=Path, default=mounted, help=served)
    add("--adapter-store", type=Path, default=pulled, help="where pulled adapters are kept")
    add(
        "--architecture",
        default=default("ARCHITECTURE", ""),
        help="refuse weights whose config.json names another architecture",
    )
    add(
        "--drain-seconds",
        type=flags.not_negative,
        default=default("DRAIN_SECONDS", str(DEFAULT_DRAIN_SECONDS)),
        help="longest wait for running requests after SIGTERM; keep 5 s less than the pod's grace period",
    )
    add(
        "--disable-rate-limit",
        action="store_true",
        default=flags.switched(parser, environment, ENVIRONMENT_PREFIX + "DISABLE_RATE_LIMIT"),
        help="never answer 429 when the queue is full",
    )
    add(
        "--api-keys-dir",
        type=Path,
        default=_path(default("API_KEYS_DIR", "")),
        help="ask clients for an API key: each file here holds one (a mounted Secret); with none, all are refused",
    )
    _add_registries(parser, environment)
    add(
        "--init",
        type=flags.one_of(*_INIT),
        choices=_INIT,
        default=default("INIT", "auto"),
        help="run under a small init process that forwards signals and reaps children (auto: when PID 1)",
    )


def _add_fetch(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    parser.add_argument("source", help="oci://REGISTRY/REPOSITORY[:TAG|@DIGEST][#PATH] or hf://ORG/NAME@COMMIT")
    parser.add_argument("--to", type=Path, required=True, help="directory to fill")
    parser.add_argument(
        "--max-lora-rank", type=flags.whole(1), help="the engine's, for a first look at the Workspace's adapters"
    )
    parser.add_argument("--data", action="store_true", help="the source is a data set, not weights")
    _add_workspace(parser, environment)
    _add_registries(parser, environment)
    parser.add_argument(
        "--pull-secret",
        action="append",
        default=_words(environment.get(ENVIRONMENT_PREFIX + "PULL_SECRET", "")),
        metavar="NAME",
        help="Secret of type kubernetes.io/dockerconfigjson in the Workspace's namespace; repeatable",
    )


def _add_workspace(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    parser.add_argument(
        "--workspace",
        type=flags.object_key,
        default=environment.get(ENVIRONMENT_PREFIX + "WORKSPACE", ""),
        metavar="NAMESPACE/NAME",
        help="the Workspace that this pod belongs to; without it nothing is watched or reported",
    )


def _add_registries(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    parser.add_argument(
        "--plain-http",
        action="append",
        default=_words(environment.get(ENVIRONMENT_PREFIX + "PLAIN_HTTP", "")),
        metavar="HOST[:PORT]",
        help="registry that is spoken to without TLS; repeatable",
    )
    parser.add_argument(
        "--trust-realm",
        action="append",
        default=_words(environment.get(ENVIRONMENT_PREFIX + "TRUST_REALM", "")),
        metavar="HOST",
        help="token endpoint of another site that may get a registry's login; repeatable",
    )
    parser.add_argument(
        "--ca-bundle",
        default=environment.get("KAITO_CA_BUNDLE", ""),
        metavar="FILE",
        help="authorities of registries that are trusted besides the public ones, PEM; read again when it is used "
        "[KAITO_CA_BUNDLE]",
    )


def _registries(namespace: argparse.Namespace) -> dict[str, Any]:
    return {
        "plain_http": tuple(namespace.plain_http),
        "trust_realms": tuple(namespace.trust_realm),
        "ca_bundle": namespace.ca_bundle,
    }


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    arguments = list(argv)
    if "--" not in arguments:
        return arguments, []
    position = arguments.index("--")
    return arguments[:position], arguments[position + 1 :]


def _words(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


def _path(text: str) -> Path | None:
    return Path(text) if text else None
