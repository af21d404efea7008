"""Whom to trust when a registry speaks TLS, and what it means that no such connection comes about."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Final

from urllib3.util.ssl_ import create_urllib3_context

from kaito_oci.errors import TlsFailed

# Results of the verification, as OpenSSL numbers them (include/openssl/x509_vfy.h).
_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21})
_OUT_OF_DATE: Final = frozenset({9, 10})
_OTHER_NAME: Final = frozenset({62, 64})
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})
"""What OpenSSL calls an answer that is no TLS at all."""
_ENDED: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""The connection ended in the middle, as it does when a registry restarts: nothing is wrong with its certificate."""


def trusting(ca_bundle: str) -> ssl.SSLContext:
    """Return a context that trusts the authorities in a PEM file; requests adds the public ones at each connection.

    Raises TlsFailed where the file cannot be read or holds no certificate.
    """
    context = create_urllib3_context()
    try:
        context.load_verify_locations(cafile=ca_bundle)
    except ssl.SSLError as error:
        raise TlsFailed(f"the CA bundle {ca_bundle} is no file of certificates in PEM") from error
    except OSError as error:
        raise TlsFailed(f"the CA bundle {ca_bundle} cannot be read: {error.strerror}") from error
    return context


def refusal(host: str, error: BaseException, ca_bundle: str) -> TlsFailed | None:
    """Return what to tell where `error` says that no safe connection to `host` can be had; None for what may pass by itself."""
    cause = next((each for each in _chain(error) if isinstance(each, ssl.SSLError)), None)
    if cause is None or isinstance(cause, _ENDED):
        return None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TlsFailed(f"{host}: {_distrust(host, cause, ca_bundle)}")
    if cause.reason in _NO_TLS:
        return TlsFailed(f"{host} does not speak TLS: name the host as plain-http if that is meant")
    return TlsFailed(f"{host}: no TLS connection can be agreed on ({cause.reason or type(cause).__name__})")


def _distrust(host: str, error: ssl.SSLCertVerificationError, ca_bundle: str) -> str:
    said = error.verify_message.rstrip(".")
    if error.verify_code in _UNKNOWN_AUTHORITY:
        known = f"neither public nor in the CA bundle {ca_bundle}" if ca_bundle else "not public"
        todo = f"add that authority's certificate to {ca_bundle}" if ca_bundle else "give its certificate as CA bundle"
        return f"the certificate is signed by an authority that is {known} ({said}): {todo}"
    if error.verify_code in _OUT_OF_DATE:
        return f"the certificate is out of date ({said}): renew it at the registry"
    if error.verify_code in _OTHER_NAME:
        return f"the certificate is for another name ({said}): use the name that it has, or have one issued for {host}"
    return f"the certificate is not accepted ({said})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        inner = inner.__cause__ or inner.__context__
