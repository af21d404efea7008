"""Every setting, each a command-line flag and an environment variable; flags win."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import msgspec

from kubecore import flags


class AzureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the cluster is and who we are there."""

    subscription_id: str
    resource_group: str
    cluster_name: str
    tenant_id: str = ""
    client_id: str = ""
    client_secret: str = ""
    federated_token_file: str = ""
    credential: str = "workload-identity"
    cloud: str = "AZURE_PUBLIC_CLOUD"
    endpoint: str = ""
    authority: str = ""
    audience: str = ""
    ca_file: str = ""
    user_agent: str = "kaito-gpu-provisioner"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The process's settings. Times in seconds."""

    azure: AzureSettings
    shared_pools: bool = True
    workers: int = 20
    claim_workers: int = 8
    list_active_seconds: float = 3.0
    list_idle_seconds: float = 30.0
    put_burst: float = 18.0
    put_per_minute: float = 1.0
    call_burst: float = 55.0
    calls_per_second: float = 1.0
    health_port: int = 8081
    metrics_port: int = 8080
    namespace: str = "kaito-system"
    leader_elect: bool = True
    log_level: str = "info"
    kubeconfig: str = ""


# name, what its value must be, help
_NUMBERS = (
    ("workers", flags.whole(1), "agent pools handled at once: Azure takes seconds for an answer"),
    (
        "claim_workers",
        flags.whole(1),
        "claims handled at once: more open more connections to the apiserver without being faster",
    ),
    ("list_active_seconds", flags.positive, "interval of the shared LIST while something is under way"),
    ("list_idle_seconds", flags.positive, "interval of the shared LIST otherwise"),
    ("put_burst", flags.positive, "PUTs that may go out at once (AKS allows 20)"),
    ("put_per_minute", flags.positive, "PUTs per minute after that (AKS allows 1)"),
    (
        "call_burst",
        flags.positive,
        "DELETEs that may go out at once, and as many deleteMachines and reads of one pool (AKS allows 60)",
    ),
    ("calls_per_second", flags.positive, "of each of these per second after that (AKS allows 1)"),
    ("health_port", flags.port, "port of /healthz and /readyz"),
    ("metrics_port", flags.port, "port of /metrics"),
)
_LOG_LEVELS = ("debug", "info", "warning", "error")
# flag, environment variable, default, help
_AZURE = (
    ("subscription-id", "ARM_SUBSCRIPTION_ID", "", "Azure subscription of the cluster"),
    ("resource-group", "ARM_RESOURCE_GROUP", "", "resource group of the cluster (not of its nodes)"),
    ("cluster-name", "AZURE_CLUSTER_NAME", "", "name of the AKS cluster"),
    ("tenant-id", "AZURE_TENANT_ID", "", "Entra tenant"),
    ("client-id", "AZURE_CLIENT_ID", "", "client id of the identity"),
    ("federated-token-file", "AZURE_FEDERATED_TOKEN_FILE", "", "projected ServiceAccount token, for workload identity"),
    ("credential", "AZURE_CREDENTIAL", "workload-identity", "workload-identity, managed-identity or client-secret"),
    ("cloud", "AZURE_CLOUD", "AZURE_PUBLIC_CLOUD", "AZURE_PUBLIC_CLOUD, AZURE_US_GOVERNMENT or AZURE_CHINA_CLOUD"),
    ("endpoint", "ARM_ENDPOINT", "", "another address of Azure Resource Manager"),
    ("authority", "AZURE_AUTHORITY_HOST", "", "another address of the token service"),
    ("audience", "ARM_AUDIENCE", "", "token audience, with another endpoint"),
    ("ca-file", "ARM_CA_FILE", "", "certificates to trust for endpoint and authority"),
)
_REQUIRED = ("subscription_id", "resource_group", "cluster_name")
_CLOUDS = ("AZURE_PUBLIC_CLOUD", "AZURE_US_GOVERNMENT", "AZURE_CHINA_CLOUD")
_CREDENTIALS = {
    "workload-identity": ("tenant_id", "client_id", "federated_token_file"),
    "managed-identity": (),
    "client-secret": ("tenant_id", "client_id", "client_secret"),
}
"""What each way to be known to Azure needs."""


def build_parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser, with defaults taken from `env`."""
    parser = argparse.ArgumentParser(
        prog="gpu-provisioner",
        description="Turns Machine and NodeClaim objects into AKS agent pools.",
        epilog="Each flag can be given by the environment variable in brackets; flags win. The client secret is taken from "
        "AZURE_CLIENT_SECRET alone, so that no list of processes shows it.",
    )
    for flag, variable, default, text in _AZURE:
        shown = f" (default: {default})" if default else ""
        parser.add_argument(f"--{flag}", default=env.get(variable, default), help=f"{text}{shown} [{variable}]")
    parser.add_argument(
        "--kubeconfig",
        default=env.get("KUBECONFIG", ""),
        help="kubeconfig file; empty: the pod's service account [KUBECONFIG]",
    )
    defaults = Settings(azure=AzureSettings(subscription_id="", resource_group="", cluster_name=""))
    parser.add_argument(
        "--pool-per-claim",
        action="store_true",
        default=flags.switched(parser, env, "POOL_PER_CLAIM"),
        help="one agent pool for each claim instead of one for equal claims of a Workspace [POOL_PER_CLAIM]",
    )
    parser.add_argument(
        "--no-leader-elect",
        action="store_true",
        default=not flags.switched(parser, env, "LEADER_ELECT", otherwise=True),
        help="run without a Lease: only for a single replica [LEADER_ELECT=false]",
    )
    for name, kind, text in _NUMBERS:
        value = getattr(defaults, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=env.get(name.upper(), str(value)),
            help=f"{text} (default: {value:g}) [{name.upper()}]",
        )
    parser.add_argument(
        "--namespace",
        default=env.get("POD_NAMESPACE", defaults.namespace),
        help=f"namespace of the Lease (default: {defaults.namespace}) [POD_NAMESPACE]",
    )
    parser.add_argument(
        "--log-level",
        type=lambda text: flags.one_of(*_LOG_LEVELS)(text.lower()),
        default=env.get("LOG_LEVEL", defaults.log_level),
        help=f"debug, info, warning or error (default: {defaults.log_level}) [LOG_LEVEL]",
    )
    return parser


def parse(argv: Sequence[str], env: Mapping[str, str]) -> Settings:
    """Settings from flags and environment. Exits with a usage message for bad ones; the client secret comes by env only."""
    parser = build_parser(env)
    options = vars(parser.parse_args(argv))
    azure = {flag.replace("-", "_"): options.pop(flag.replace("-", "_")) for flag, *_ in _AZURE}
    missing = [name.replace("_", "-") for name in _REQUIRED if not azure[name]]
    if missing:
        parser.error(f"needed: {', '.join('--' + name for name in missing)}")
    settings = AzureSettings(**azure, client_secret=env.get("AZURE_CLIENT_SECRET", ""))
    if mistake := _mistake(settings):
        parser.error(mistake)
    return Settings(
        azure=settings,
        shared_pools=not options.pop("pool_per_claim"),
        leader_elect=not options.pop("no_leader_elect"),
        **options,
    )


def _mistake(azure: AzureSettings) -> str:
    """What is wrong with the way to Azure and what to set, "" when it can be tried."""
    if azure.cloud not in _CLOUDS:
        return f"--cloud {azure.cloud!r} is unknown: use {', '.join(_CLOUDS)} [AZURE_CLOUD]"
    if azure.credential not in _CREDENTIALS:
        return f"--credential {azure.credential!r} is unknown: use {', '.join(_CREDENTIALS)} [AZURE_CREDENTIAL]"
    missing = [name for name in _CREDENTIALS[azure.credential] if not getattr(azure, name)]
    if not missing:
        return ""
    variables = {flag.replace("-", "_"): f"--{flag} [{variable}]" for flag, variable, *_ in _AZURE}
    said = ", ".join(variables.get(name, "AZURE_CLIENT_SECRET (environment only)") for name in missing)
    return f"--credential {azure.credential} needs {said}: see docs/aks.md"
