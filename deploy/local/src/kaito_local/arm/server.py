"""Serves the stand-in over TLS with a certificate of its own."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .bucket import TokenBucket, open_buckets
from .cloud import Cloud, Identity, Timings
from .faults import FaultScript
from .nodes import NodeBackend
from .routes import Wire


@dataclass(frozen=True)
class ArmStandIn:
    """A running stand-in. `certificate` is the file that a client must trust."""

    url: str
    certificate: Path
    wire: Wire
    identity: Identity

    def settings(self) -> dict[str, str]:
        """Where its cluster is and how it is reached, by the names of gpu-provisioner's settings; a credential comes on top."""
        return {
            "subscription_id": self.identity.subscription,
            "resource_group": self.identity.resource_group,
            "cluster_name": self.identity.cluster,
            "tenant_id": self.identity.tenant,
            "client_id": "client",
            "endpoint": self.url,
            "authority": self.url.replace("127.0.0.1", "localhost"),
            "ca_file": str(self.certificate),
        }


def write_certificate(folder: Path, addresses: tuple[str, ...]) -> Path:
    """Writes a self-signed certificate (arm.pem) and its key (arm.key) for the addresses and localhost, once."""
    certificate, key_file = folder / "arm.pem", folder / "arm.key"
    if certificate.exists() and key_file.exists():
        return certificate
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kaito-arm-stand-in")])
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), *(x509.IPAddress(ip_address(a)) for a in addresses)]
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    return certificate


@contextlib.asynccontextmanager
async def serve(
    folder: Path,
    nodes: NodeBackend,
    *,
    identity: Identity | None = None,
    timings: Timings | None = None,
    buckets: dict[str, TokenBucket] | None = None,
    faults: FaultScript | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Any] = asyncio.sleep,
) -> AsyncIterator[ArmStandIn]:
    """Runs the stand-in until the context ends; `port` 0 takes a free one."""
    identity = identity or Identity()
    certificate = write_certificate(folder, tuple({"127.0.0.1", host} - {"0.0.0.0"}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, folder / "arm.key")
    async with asyncio.TaskGroup() as tasks:
        cloud = Cloud(identity, timings or Timings(), nodes, tasks, sleep)
        wire = Wire(cloud, faults or FaultScript(), buckets or open_buckets(), now)
        runner = web.AppRunner(wire.application(), access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port, ssl_context=context)
            await site.start()
            bound = runner.addresses[0][1]
            yield ArmStandIn(f"https://127.0.0.1:{bound}", certificate, wire, identity)
        finally:
            for operation in cloud.operations.values():
                if operation.task is not None:
                    operation.task.cancel()
            await runner.cleanup()
