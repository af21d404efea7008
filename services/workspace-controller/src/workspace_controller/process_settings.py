"""Settings of the process: which cluster, election, ports, logging. Each flag is also an environment variable."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from kubecore.leader import LeaderConfig
from workspace_controller import traces
from workspace_controller.settings import Flag, add_flags

_FLAGS: Final[tuple[Flag, ...]] = (
    ("kubeconfig", "", "kubeconfig file; empty: $KUBECONFIG, else the pod's service account"),
    ("context", "", "context of the kubeconfig; empty: its current one"),
    ("leader-elect", "true", "lead through a Lease before writing anything; false only for a single process"),
    ("lease-namespace", "", "namespace of the Lease; empty: $POD_NAMESPACE, else `default`"),
    ("lease-name", "workspace-controller", "name of the Lease"),
    ("health-port", "8081", "port of /healthz and /readyz; 0 picks a free one"),
    ("metrics-port", "8080", "port of /metrics; 0 picks a free one"),
    ("webhook-port", "0", "port of the validating admission webhook; 0: not served"),
    (
        "webhook-configuration",
        "",
        "ValidatingWebhookConfiguration to publish own certificates in; empty: they lie in files",
    ),
    ("webhook-host", "", "name by which the apiserver calls the webhook, for own certificates: SERVICE.NAMESPACE.svc"),
    ("webhook-certificates", "/tls", "folder with tls.crt and tls.key of the webhook; read again when they change"),
    ("workers", "16", "Workspaces that are worked on at once"),
    ("drain-seconds", "20", "seconds that work in hand may take after SIGTERM"),
    ("sweep-seconds", "300", "seconds between two looks for claims whose Workspace is gone"),
    ("required-policies", "", "ValidatingAdmissionPolicies, by comma, without which no workload gets any rights"),
    ("catalog", "", "folder of presets, SKUs and engines; empty: the one that is shipped"),
    ("log-level", "INFO", "DEBUG, INFO, WARNING or ERROR"),
)


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How this process runs."""

    kubeconfig: str | None = None
    context: str | None = None
    leader: LeaderConfig | None = None
    """None: no election."""
    health_port: int = 8081
    metrics_port: int = 8080
    webhook_port: int | None = None
    webhook_certificates: Path = Path("/tls")
    webhook_configuration: str = ""
    """Where this process publishes certificates of its own; "" serves those of `webhook_certificates`."""
    webhook_host: str = ""
    replica: str = ""
    """Name of this replica: the pod's, or the host's."""
    workers: int = 16
    drain_seconds: float = 20.0
    sweep_seconds: float = 300.0
    required_policies: tuple[str, ...] = ()
    catalog: Path | None = None
    log_level: str = "INFO"
    traces: bool = False
    """Whether traces are sent; where to and how, OpenTelemetry's own variables say."""


def process_arguments(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    """Add the process's flags to `parser`; `environment` gives the defaults."""
    parser.set_defaults(
        pod_namespace=environment.get("POD_NAMESPACE", ""),
        pod_name=environment.get("POD_NAME") or socket.gethostname(),
        traces=traces.wanted(environment),
    )
    add_flags(parser, "process", _FLAGS, environment)


def process_settings(arguments: argparse.Namespace) -> ProcessSettings:
    """Return the settings that the parsed flags say. Raises ValueError naming the flag that makes no sense."""
    text: dict[str, str] = {flag: getattr(arguments, flag.replace("-", "_")) for flag, _, _ in _FLAGS}
    elect = text["leader-elect"].lower()
    if elect not in {"true", "false"}:
        raise ValueError(f"--leader-elect must be true or false, not {elect!r}")
    if text["log-level"].upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise ValueError(f"--log-level must be DEBUG, INFO, WARNING or ERROR, not {text['log-level']!r}")
    webhook_port = _port(text, "webhook-port")
    if text["webhook-configuration"] and not text["webhook-host"]:
        raise ValueError("--webhook-configuration needs --webhook-host, the name for the certificate")
    namespace = text["lease-namespace"] or arguments.pod_namespace or "default"
    lease = LeaderConfig(name=text["lease-name"], namespace=namespace)
    return ProcessSettings(
        kubeconfig=text["kubeconfig"] or None,
        context=text["context"] or None,
        leader=lease if elect == "true" else None,
        health_port=_port(text, "health-port"),
        metrics_port=_port(text, "metrics-port"),
        webhook_port=webhook_port or None,
        webhook_certificates=Path(text["webhook-certificates"]),
        webhook_configuration=text["webhook-configuration"],
        webhook_host=text["webhook-host"],
        replica=arguments.pod_name,
        workers=_number(text, "workers", least=1),
        drain_seconds=_number(text, "drain-seconds", least=1),
        sweep_seconds=_number(text, "sweep-seconds", least=1),
        required_policies=tuple(name.strip() for name in text["required-policies"].split(",") if name.strip()),
        catalog=Path(text["catalog"]) if text["catalog"] else None,
        log_level=text["log-level"].upper(),
        traces=arguments.traces,
    )


def _port(text: Mapping[str, str], flag: str) -> int:
    port = _number(text, flag, least=0)
    if port > 65535:
        raise ValueError(f"--{flag} must be a port, at most 65535, not {port}")
    return port


def _number(text: Mapping[str, str], flag: str, *, least: int) -> int:
    if not text[flag].isdecimal() or int(text[flag]) < least:
        raise ValueError(f"--{flag} must be a number of at least {least}, not {text[flag]!r}")
    return int(text[flag])
