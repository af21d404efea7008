"""The webhook's own certificates: made in memory by each replica, and the bundle by which the apiserver knows them.

A bundle holds the leaf certificates themselves, of all replicas: no authority, no key that leaves its process, no Secret. A leaf
in the bundle can vouch for nothing but itself. Pure, but for the making of keys.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME: Final = timedelta(days=7)
RENEW_BEFORE: Final = timedelta(days=3)
LIMIT: Final = 16
"""Certificates in a bundle; beyond it the oldest go. Replicas that live put theirs back."""
_SKEW: Final = timedelta(minutes=5)
_NAME_MAX: Final = 64
"""Characters of an X.509 common name."""


class Issued(msgspec.Struct, frozen=True):
    """A certificate with its key, both PEM."""

    certificate: bytes
    key: bytes
    expires: datetime


def issue(host: str, replica: str, now: datetime) -> Issued:
    """Make a key and a self-signed server certificate for `host` (a DNS name or an IP address)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, replica[:_NAME_MAX])])
    expires = now + LIFETIME
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(expires)
        .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Issued(certificate.public_bytes(serialization.Encoding.PEM), private, expires)


def bundle(standing: bytes, mine: tuple[bytes, ...], now: datetime) -> bytes:
    """Return the bundle with the certificates `mine` in it and without the expired; unchanged where nothing is to be done.

    `mine` all have the same common name: earlier ones of that name are dropped. What is not a certificate is dropped too.
    """
    own = [x509.load_pem_x509_certificate(pem) for pem in mine]
    others = [found for found in _read(standing) if found.not_valid_after_utc > now]
    names = {found.subject for found in own}
    kept = sorted(
        (found for found in others if found.subject not in names), key=lambda found: found.not_valid_before_utc
    )
    wanted = [*kept[-(LIMIT - len(own)) :], *own]
    if {_pem(found) for found in wanted} == {_pem(found) for found in _read(standing)}:
        return standing
    return b"".join(_pem(found) for found in wanted)


def _read(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem) if pem.strip() else []
    except ValueError:
        return []


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
