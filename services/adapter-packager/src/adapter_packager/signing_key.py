"""The keys of signatures: ECDSA on P-256 with SHA-256, the scheme that every implementation of cosign's format has to know.

Source: cosign's SIGNATURE_SPEC.md, "Signature Schemes". A key is read for each use and never kept, printed or passed on.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from adapter_packager.exits import SigningKeyProblem

PASSWORD_FILE: Final = "cosign.password"  # noqa: S105 - its name, beside the key
_PASSWORD_VARIABLE: Final = "COSIGN_PASSWORD"  # noqa: S105 - its name
_COSIGNS_OWN: Final = (b"ENCRYPTED SIGSTORE PRIVATE KEY", b"ENCRYPTED COSIGN PRIVATE KEY")
_MOST: Final = 64 * 1024
_MAKE: Final = "make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out cosign.key`"
_IN_A_POD: Final = "in a pod it is cosign.key of the Secret that kaito.sh/signing-key-secret names"


def read_private(path: Path, environment: Mapping[str, str] = os.environ) -> ec.EllipticCurvePrivateKey:
    """Read a key in PEM (PKCS #8, plain or encrypted). Blocks. Raises SigningKeyProblem.

    The password of an encrypted one is in the file `cosign.password` beside it, or in COSIGN_PASSWORD.
    """
    content = _read(path)
    if any(words in content for words in _COSIGNS_OWN):
        message = f"{path} is encrypted in cosign's own format, which is not supported: use PKCS #8, {_MAKE}"
        raise _invalid(message)
    encrypted = b"ENCRYPTED" in content
    try:
        key = load_pem_private_key(content, _password(path, environment) if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The library's own words may repeat parts of the input.
        hint = f"is its password right ({PASSWORD_FILE} beside it, or {_PASSWORD_VARIABLE})?" if encrypted else _MAKE
        raise _invalid(f"{path} is no private key in PEM that can be read: {hint}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _invalid(f"{path} is no ECDSA key on the curve P-256: {_MAKE}")
    return key


def read_public(path: Path) -> ec.EllipticCurvePublicKey:
    """Read a public key in PEM, as `cosign.pub` is. Blocks. Raises SigningKeyProblem."""
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _invalid(f"{path} is no public key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _invalid(f"{path} is no ECDSA key on the curve P-256")
    return key


def sign(key: ec.EllipticCurvePrivateKey, payload: bytes) -> str:
    """Return the signature in base64. Deterministic (RFC 6979): signing again changes nothing in the registry."""
    signature = key.sign(payload, ec.ECDSA(SHA256(), deterministic_signing=True))
    return base64.b64encode(signature).decode()


def is_signed_by(key: ec.EllipticCurvePublicKey, payload: bytes, signature: str) -> bool:
    """Whether `signature` is this key's over exactly these bytes."""
    try:
        key.verify(base64.b64decode(signature, validate=True), payload, ec.ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST)
    except FileNotFoundError as error:
        message = f"there is no key at {path}; {_IN_A_POD}"
        raise SigningKeyProblem("SigningKeyMissing", message, retryable=True) from error
    except OSError as error:
        raise _invalid(f"the key {path} cannot be read: {error.strerror}") from error


def _password(path: Path, environment: Mapping[str, str]) -> bytes | None:
    try:
        return path.with_name(PASSWORD_FILE).read_bytes().strip() or None
    except OSError:
        return environment.get(_PASSWORD_VARIABLE, "").encode() or None


def _invalid(message: str) -> SigningKeyProblem:
    return SigningKeyProblem("SigningKeyInvalid", message, retryable=True)
