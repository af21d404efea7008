"""Weights from an OCI registry: kaito_oci does the work, this module gives its failures our exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import kaito_oci
from kaito_oci import errors
from model_server.exits import ExitCode, FatalError
from model_server.fetch.source import OciSource

_CODES: Final[tuple[tuple[tuple[type[errors.OciError], ...], ExitCode, str], ...]] = (
    ((errors.InvalidReference,), ExitCode.USAGE, "correct the image's name in the preset"),
    (
        (errors.NotFound,),
        ExitCode.WEIGHTS_MISSING,
        "push the weights there, or correct the image and path in the preset",
    ),
    (
        (errors.Unauthorized, errors.Denied),
        ExitCode.ACCESS_DENIED,
        "name a pull Secret with rights to this repository",
    ),
    (
        (errors.UntrustedRealm,),
        ExitCode.ACCESS_DENIED,
        "the operator can name it in settings.trustedRealms",
    ),
    (
        (errors.TlsFailed,),
        ExitCode.REGISTRY_UNTRUSTED,
        "the operator sets private authorities with global.registryCA, and registries without TLS with settings.plainHttpHosts",
    ),
    (
        (errors.UnsafeLocation,),
        ExitCode.REGISTRY_UNTRUSTED,
        "the registry redirects to where no login may go: name its final address",
    ),
    ((errors.DiskFull,), ExitCode.WEIGHTS_MISSING, "give the weights volume more space"),
    ((errors.DestinationInUse,), ExitCode.WEIGHTS_MISSING, "use an empty volume for the weights"),
)


async def fetch(
    source: OciSource,
    to: Path,
    *,
    auth: kaito_oci.CredentialSource,
    registries: kaito_oci.RegistrySettings,
    progress: Callable[[int, int], None],
) -> str:
    """Pull `source` into the folder `to`; return the digest. Raises FatalError."""
    try:
        result = await kaito_oci.pull(
            source.reference, to, path=source.path or None, auth=auth, settings=registries, progress=progress
        )
    except errors.OciError as error:
        raise translate(error, source.reference) from error
    return result.digest


def translate(error: errors.OciError, reference: str) -> FatalError:
    """Return the exit that a pull's failure means."""
    for kinds, code, advice in _CODES:
        if isinstance(error, kinds):
            return FatalError(code, f"{reference}: {error}; {advice}")
    if error.retryable:
        return FatalError(ExitCode.REGISTRY_UNAVAILABLE, f"{reference}: {error}; it is tried again")
    return FatalError(
        ExitCode.WEIGHTS_INVALID, f"{reference}: {error} ({error.reason}); push the weights again with a known tool"
    )
