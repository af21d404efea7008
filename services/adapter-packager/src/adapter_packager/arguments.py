"""The command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from adapter_packager.exits import ExitCode
from adapter_packager.package import Format
from kubecore import flags

_CODES = """\
exit codes:
  0   done
  1   something unexpected (the message and the log say what)
  64  the command line or the reference is wrong
  65  the adapter cannot be served (the message says why)
  66  folder, file or image is not there, or a file cannot be read
  67  the registry sent something damaged, hostile or too large, or the signature is missing or another key's
  69  the registry is down or too slow; try again later
  72  Secret or login missing or wrong, or without the right to do this
  73  the registry refuses this push: immutable tag, read-only, quota
  74  no space left, or the target folder is in use
  75  the key to sign or verify with is missing or unusable
  76  the registry's certificate is not trusted (--ca-bundle), or it speaks no TLS (--plain-http)
  143 interrupted

In a Pod (POD_NAME and POD_NAMESPACE set) the state is reported in the Pod's annotation kaito.sh/report.<container>, and
--push-secret names the Secret to read over the API. Elsewhere logins come from docker's config and its credential helpers.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage()
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}\n")


def parser(environment: Mapping[str, str] = os.environ) -> argparse.ArgumentParser:
    """The parser; defaults come from the environment where the help says so."""
    top = _Parser(
        prog="adapter-packager",
        description="Makes OCI images of LoRA adapters, and fetches, describes and checks them.",
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    push = commands.add_parser("push", help="check a folder and push it as an image")
    push.add_argument(
        "folder", type=Path, metavar="DIR", help="folder with adapter_config.json and adapter_model.safetensors"
    )
    push.add_argument("reference", metavar="REF", help="registry/repository:tag")
    push.add_argument(
        "--format",
        type=Format,
        choices=list(Format),
        default=Format.IMAGE,
        help="image (KAITO's, default) or modelpack (CNCF)",
    )
    push.add_argument("--base-model", default="", metavar="NAME", help="preset that the adapter was trained on")
    push.add_argument(
        "--metrics-port", type=flags.port, default=0, metavar="PORT", help="port of /metrics while it pushes (0: none)"
    )

    fetch = commands.add_parser("pull", help="fetch an adapter into a folder, verified")
    fetch.add_argument("reference", metavar="REF")
    fetch.add_argument("folder", type=Path, metavar="DIR")

    inspect = commands.add_parser("inspect", help="describe an adapter without downloading it")
    inspect.add_argument("reference", metavar="REF")

    verify = commands.add_parser("verify", help="download, verify and check an adapter; keep nothing")
    verify.add_argument("reference", metavar="REF")
    verify.add_argument(
        "--key", type=Path, default=None, metavar="FILE", help="public key (cosign.pub) that must have signed it"
    )

    check = commands.add_parser("check", help="prove that REF may be pushed, without pushing")
    check.add_argument("reference", metavar="REF")

    for command in (push, fetch, inspect, verify, check):
        _registry_options(command, environment)
    for command in (push, inspect, verify):
        _model_options(command)
    for command in (push, check):
        command.add_argument(
            "--sign-key",
            type=Path,
            default=None,
            metavar="FILE",
            help="sign as cosign does, with this private key (ECDSA P-256, PKCS #8 PEM); the password of an encrypted one "
            "is in cosign.password beside it or in COSIGN_PASSWORD",
        )
        _pod_options(command)
    return top


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; a wrong one ends the process with code 64."""
    return parser().parse_args(argv)


def _registry_options(options: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    group = options.add_argument_group("registry")
    group.add_argument(
        "--plain-http",
        action="append",
        metavar="HOST[:PORT]",
        default=[host for host in environment.get("KAITO_PLAIN_HTTP_HOSTS", "").split(",") if host],
        help="talk to this registry without TLS; repeatable [KAITO_PLAIN_HTTP_HOSTS, comma-separated]",
    )
    group.add_argument(
        "--trust-realm",
        action="append",
        metavar="HOST",
        default=[],
        help="token endpoint that may get this registry's login",
    )
    group.add_argument(
        "--ca-bundle",
        default=environment.get("KAITO_CA_BUNDLE", ""),
        metavar="FILE",
        help="authorities to trust besides the public ones, PEM [KAITO_CA_BUNDLE]",
    )
    group.add_argument(
        "--docker-config",
        type=Path,
        default=None,
        metavar="FILE",
        help="docker's config (default: $DOCKER_CONFIG or ~/.docker)",
    )


def _model_options(options: argparse.ArgumentParser) -> None:
    group = options.add_argument_group("check against a base model")
    group.add_argument("--base-config", type=Path, default=None, metavar="FILE", help="config.json of the base")
    group.add_argument(
        "--max-rank", type=flags.whole(1), default=None, metavar="N", help="the engine's --max-lora-rank"
    )


def _pod_options(options: argparse.ArgumentParser) -> None:
    group = options.add_argument_group("in a Pod")
    group.add_argument(
        "--push-secret", default="", metavar="NAME", help="Secret of type kubernetes.io/dockerconfigjson"
    )
    group.add_argument(
        "--push-secret-folder",
        type=Path,
        default=None,
        metavar="DIR",
        help="where that Secret is mounted; without it the Secret is read over the API",
    )
    group.add_argument("--container", default="", metavar="NAME", help="name of this container, for its report")
    group.add_argument(
        "--hold",
        type=flags.not_negative,
        default=None,
        metavar="SECONDS",
        help="how long to wait for registry or Secret (0; in a Pod 600)",
    )
    group.add_argument(
        "--termination-log", type=Path, default=Path("/dev/termination-log"), metavar="FILE", help="for the last report"
    )
