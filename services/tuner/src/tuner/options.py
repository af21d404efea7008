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
            plain_http_hosts=frozenset(given.plain_http_registry), ca_bundle=environment.get("KAITO_CA_BUNDLE", "")
        ),
        work=given.work,
        work_bytes=given.work_bytes,
        run=_run(given.run),
        workspace=_workspace(given.workspace),
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


def termination_log(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where kubelet reads the last words of a container. Outside of one they go nowhere."""
    path = Path(environment.get(PREFIX + "TERMINATION_LOG", "/dev/termination-log"))
    # Never make a plain file in /dev: on a developer's machine there is no such file.
    return path if path.exists() or path.parent != Path("/dev") else Path(os.devnull)


def build_parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """Return the parser, with defaults taken from `environment`."""

    def default(name: str, otherwise: str) -> str:
        return environment.get(PREFIX + name, otherwise)

    parser = _Parser(prog="tuner", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    add = commands.add_parser("run", help="train an adapter; a finished output folder is left as it is").add_argument
    add("--model", type=Path, default=Path(default("MODEL", "/workspace/weights")), help="folder with the base model")
    add("--base-model", default=default("BASE_MODEL", ""), help="the preset's name, for the adapter's README")
    add("--method", choices=[str(m) for m in Method], default=default("METHOD", "qlora"), help="lora or qlora")
    add("--config", type=Path, default=_path(default("CONFIG", "")), help="training_config.yaml")
    add("--url", action="append", help="training data; pin the content with #sha256=HEX")
    add("--data", type=Path, default=_path(default("DATA", "")), help="folder with training data, instead of URLs")
    add("--output", type=Path, default=Path(default("OUTPUT", "/mnt/results")), help="folder for the adapter")
    add("--checkpoints", type=Path, default=_path(default("CHECKPOINTS", "")), help=f"default: OUTPUT/{CHECKPOINTS}")
    _add_registry(add, environment)
    add("--work", type=Path, default=Path(default("WORK", "/workspace/tuner")), help="folder for downloads and tokens")
    add("--work-bytes", type=_bytes, default=default("WORK_BYTES", "0"), help="bytes that --work may hold (0: any)")
    add(
        "--run",
        default=default("RUN", ""),
        metavar="OWNER/NAME",
        help="name of this very tuning: what was finished under it is taken without a look at the data; of the same OWNER, or "
        "without a name, only for data with the same content",
    )
    add("--workspace", default=default("WORKSPACE", ""), help="NAMESPACE/NAME of the Workspace to report to")
    add("--plain-http", action="store_true", default=default("PLAIN_HTTP", "") == "true", help="allow http:// URLs")
    add(
        "--allow-host",
        action="append",
        default=default("ALLOW_HOSTS", "").split(),
        help="HOST:PORT that may be asked for data whatever its address",
    )
    add("--max-bytes", type=_count, default=default("MAX_BYTES", str(Limits().max_bytes)), help="of one download")
    add("--processes", type=_count, default=default("PROCESSES", "1"), help="training processes, one for each GPU")
    add(
        "--sharding",
        choices=["auto", *Sharding],
        default=default("SHARDING", "auto"),
        help="of the base over several GPUs: ddp (each has all of it), fsdp (each a part), auto (fsdp where one is too small)",
    )
    add(
        "--dry-run", action="store_true", default=default("DRY_RUN", "") == "true", help="stop after data and two steps"
    )
    add("--restarts", type=int, default=default("RESTARTS", "3"), help="restarts of a child that makes no progress")
    add("--hang-seconds", type=_seconds, default=default("HANG_SECONDS", "1800"), help="longest silence while training")
    add("--load-seconds", type=_seconds, default=default("LOAD_SECONDS", "3600"), help="longest time to the first step")
    add(
        "--grace-seconds",
        type=_seconds,
        default=default("GRACE_SECONDS", "100"),
        help="time for a checkpoint after SIGTERM; keep 15 s less than the pod's grace period",
    )
    add("--metrics-port", type=int, default=default("METRICS_PORT", "0"), help="port of /metrics (0: none)")
    return parser


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


def _workspace(text: str) -> Key | None:
    if not text:
        return None
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name):
        raise FatalError(ExitCode.USAGE, f"--workspace {text!r} is not NAMESPACE/NAME")
    return Key(namespace, name)


def _run(text: str) -> str:
    owner, slash, name = text.partition("/")
    if text and not (owner and slash and name):
        raise FatalError(ExitCode.USAGE, f"--run {text!r} is not OWNER/NAME")
    return text


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _bytes(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number of seconds")
    return value
