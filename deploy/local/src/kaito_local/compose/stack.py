"""Where the containers answer: what `make test-compose` tells the test fixtures."""

import os
from pathlib import Path

import msgspec

from kaito_local.errors import LocalError

SETTING = "KAITO_TEST_STACK"
"""Names the file; unset, the fixtures start processes of their own."""


class RegistryPlace(msgspec.Struct, frozen=True, omit_defaults=True):
    """One OCI registry: its `host:port`, its storage on this machine, its login, and the CA file where it speaks TLS."""

    host: str
    storage: str
    username: str = ""
    password: str = ""
    ca: str = ""


class ArmPlace(msgspec.Struct, frozen=True):
    """The ARM stand-in: its URL, the certificate to trust, and the `host:port` at which tests look into it."""

    url: str
    certificate: str
    control: str


class PrometheusPlace(msgspec.Struct, frozen=True):
    """Prometheus: its URL and the folder of its `prometheus.yml`, which names a list of targets that tests rewrite."""

    url: str
    folder: str


class Stack(msgspec.Struct, frozen=True):
    """All of it. `registries` holds "open", "password" and "tls"; libs/oci reads that part of the file by itself."""

    kubeconfig: str
    registries: dict[str, RegistryPlace]
    arm: ArmPlace
    prometheus: PrometheusPlace


def running_stack() -> Stack | None:
    """The containers that this process shall use; None when it shall start its own processes."""
    named = os.environ.get(SETTING)
    if not named:
        return None
    try:
        return msgspec.json.decode(Path(named).read_bytes(), type=Stack)
    except (OSError, msgspec.MsgspecError) as error:
        raise LocalError(f"{SETTING} names {named}, which `make test-compose` did not write: {error}") from error
