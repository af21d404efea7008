"""The command line of `tuner`. Every setting is also an environment variable, TUNER_<NAME>."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from kaito_api.meta import Key
from kaito_oci import OciError, Reference, RegistrySettings
from kubecore import flags
from tuner.config.recipe import Method
from tuner.data.fetch import Limits
from tuner.data.location import Policy
from tuner.exits import ExitCode, FatalError
from tuner.memory import Sharding
from tuner.room import Room

PREFIX: Final = "TUNER_"
CHECKPOINTS: Final = ".checkpoints"
"""Folder in the output where checkpoints go unless another one is named: it lives as long as the output's volume."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of `tuner run`."""

    model: Path
    base_model: str
    method: str
    config: Path | None
    urls: tuple[str, ...]
    data: Path | None
    output: Path
    checkpoints: Path
    checkpoint_image: str
    checkpoint_secret: str
    checkpoint_secret_folder: Path | None
    registries: RegistrySettings
    work: Path
    work_bytes: int
    run: str
    workspace: Key | None
    policy: Policy
    limits: Limits
    processes: int
    sharding: str
    dry_run: bool
    restarts: int
    hang_seconds: float
    load_seconds: float
    grace_seconds: float
    metrics_port: int

    @property
    def room(self) -> Room:
        """What the work folder may hold."""
        return Room(folder=str(self.work), limit=self.work_bytes)

    @property
    def owner(self) -> str:
        """Who the run is for: its name up to the first slash."""
        return self.run.partition("/")[0]


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of ending the process with its own code."""

    def error(self, message: str) -> NoReturn:
        raise FatalError(ExitCode.USAGE, f"{self.prog}: {message}. See {self.prog} --help")


def parse(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> Options:
    """Parse the command line. Raises FatalError(USAGE)."""
    given = build_parser(environment).parse_args(argv)
    urls = tuple(given.url or environment.get(PREFIX + "URLS", "").split())
    if bool(urls) == (given.data is not None):
        raise FatalError(ExitCode.USAGE, "give the data either as --url, once or more, or as --data FOLDER")
    return Options(
        model=given.model,
        base_model=given.base_model or given.model.name,
        method=given.method,
        config=given.config,
        urls=urls,
        data=given.data,
        output=given.output,
        checkpoints=given.checkpoints or given.output / CHECKPOINTS,
        checkpoint_image=_reference(given.checkpoint_image),
        checkpoint_secret=given.checkpoint_secret,
        checkpoint_secret_folder=given.checkpoint_secret_folder,
        registries=RegistrySettings(
            plain_http_hosts=frozenset(given.plain_http_registry),
            trusted_realms=frozenset(given.trust_realm),
            ca_bundle=given.ca_bundle,
        ),
        work=given.work,
        work_bytes=given.work_bytes,
        run=_run(given.run),
        workspace=given.workspace,
        policy=Policy(plain_http=given.plain_http, allowed_hosts=frozenset(_host(text) for text in given.allow_host)),
        limits=Limits(max_bytes=given.max_bytes),
        processes=given.processes,
        sharding=given.sharding,
        dry_run=given.dry_run,
        restarts=given.restarts,
        hang_seconds=given.hang_seconds,
        load_seconds=given.load_seconds,
        grace_seconds=given.grace_seconds,
        metrics_port=given.metrics_port,
    )


def build_parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """Return the parser, with defaults taken from `environment`."""

    def default(name: str, otherwise: str) -> str:
        return environment.get(PREFIX + name, otherwise)

    def switched(name: str) -> bool:
        return flags.switched(parser, environment, PREFIX + name)

    parser = _Parser(prog="tuner", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    add = commands.add_parser("run", help="train an adapter; a finished output folder is left as it is").add_argument
    add("--model", type=Path, default=Path(default("MODEL", "/workspace/weights")), help="folder with the base model")
    add("--base-model", default=default("BASE_MODEL", ""), help="the preset's name, for the adapter's README")
    add("--config", type=Path, default=_path(default("CONFIG", "")), help="training_config.yaml")
    add("--output", type=Path, default=Path(default("OUTPUT", "/mnt/results")), help="folder for the adapter")
    add("--checkpoints", type=Path, default=_path(default("CHECKPOINTS", "")), help=f"default: OUTPUT/{CHECKPOINTS}")
    _add_registry(add, environment)
    add("--work", type=Path, default=Path(default("WORK", "/workspace/tuner")), help="folder for downloads and tokens")
    room = default("WORK_BYTES", "0")
    add("--work-bytes", type=flags.whole(), default=room, help="bytes that --work may hold (0: any)")
    add(
        "--run",
        default=default("RUN", ""),
        metavar="OWNER/NAME",
        help="name of this very tuning: what was finished under it is taken without a look at the data; of the same OWNER, or "
        "without a name, only for data with the same content",
    )
    own = default("WORKSPACE", "")
    add("--workspace", type=flags.object_key, default=own, help="NAMESPACE/NAME of the Workspace to report to")
    add("--plain-http", action="store_true", default=switched("PLAIN_HTTP"), help="allow http:// URLs")
    add("--dry-run", action="store_true", default=switched("DRY_RUN"), help="stop after data and two steps")
    _add_data(add, default)
    _add_training(add, default)
    add("--metrics-port", type=flags.port, default=default("METRICS_PORT", "0"), help="port of /metrics (0: none)")
    return parser


def _add_data(add: Callable[..., object], default: Callable[[str, str], str]) -> None:
    add("--url", action="append", help="training data; pin the content with #sha256=HEX")
    add("--data", type=Path, default=_path(default("DATA", "")), help="folder with training data, instead of URLs")
    add(
        "--allow-host",
        action="append",
        default=default("ALLOW_HOSTS", "").split(),
        help="HOST:PORT that may be asked for data whatever its address",
    )
    most = default("MAX_BYTES", str(Limits().max_bytes))
    add("--max-bytes", type=flags.whole(1), default=most, help="of one download")


def _add_training(add: Callable[..., object], default: Callable[[str, str], str]) -> None:
    methods, shardings = tuple(Method), ("auto", *Sharding)
    add(
        "--method",
        type=flags.one_of(*methods),
        choices=methods,
        default=default("METHOD", "qlora"),
        help="lora or qlora",
    )
    count = default("PROCESSES", "1")
    add("--processes", type=flags.whole(1), default=count, help="training processes, one for each GPU")
    add(
        "--sharding",
        type=flags.one_of(*shardings),
        choices=shardings,
        default=default("SHARDING", "auto"),
        help="of the base over several GPUs: ddp (each has all of it), fsdp (each a part), auto (fsdp where one is too small)",
    )
    restarts = default("RESTARTS", "3")
    add("--restarts", type=flags.whole(), default=restarts, help="restarts of a child that makes no progress")
    for name, seconds, text in (
        ("hang", "1800", "longest silence while training"),
        ("load", "3600", "longest silence before the first step"),
        ("grace", "100", "time for a checkpoint after SIGTERM; keep 15 s less than the pod's grace period"),
    ):
        given = default(f"{name.upper()}_SECONDS", seconds)
        add(f"--{name}-seconds", type=flags.positive, default=given, help=text)


def _add_registry(add: Callable[..., object], environment: Mapping[str, str]) -> None:
    add(
        "--checkpoint-image",
        default=environment.get(PREFIX + "CHECKPOINT_IMAGE", ""),
        metavar="REF",
        help="keep the newest checkpoint in a registry too, under this tag, which is overwritten; for pods without a volume",
    )
    add(
        "--checkpoint-secret",
        default=environment.get(PREFIX + "CHECKPOINT_SECRET", ""),
        metavar="NAME",
        help="Secret of type kubernetes.io/dockerconfigjson for it, read over the API",
    )
    add(
        "--checkpoint-secret-folder",
        type=Path,
        default=_path(environment.get(PREFIX + "CHECKPOINT_SECRET_FOLDER", "")),
        metavar="DIR",
        help="where that Secret is mounted, instead",
    )
    add(
        "--plain-http-registry",
        action="append",
        default=[host for host in environment.get("KAITO_PLAIN_HTTP_HOSTS", "").split(",") if host],
        metavar="HOST[:PORT]",
        help="registry without TLS; repeatable [KAITO_PLAIN_HTTP_HOSTS, comma-separated]",
    )
    add(
        "--trust-realm",
        action="append",
        default=[],
        metavar="HOST",
        help="token endpoint of another site that may get the registry's login; repeatable",
    )
    add(
        "--ca-bundle",
        default=environment.get("KAITO_CA_BUNDLE", ""),
        metavar="FILE",
        help="authorities of registries that are trusted besides the public ones, PEM [KAITO_CA_BUNDLE]",
    )


def _reference(text: str) -> str:
    if not text:
        return ""
    try:
        Reference.parse(text)
    except OciError as error:
        raise FatalError(ExitCode.USAGE, f"--checkpoint-image: {error}") from error
    return text


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise FatalError(ExitCode.USAGE, f"--allow-host {text!r} is not HOST:PORT")
    return host.strip("[]").rstrip(".").lower(), int(port)


def _run(text: str) -> str:
    owner, slash, name = text.partition("/")
    if text and not (owner and slash and name):
        raise FatalError(ExitCode.USAGE, f"--run {text!r} is not OWNER/NAME")
    return text


def _path(text: str) -> Path | None:
    return Path(text) if text else None
