"""Everything that can go wrong between us and a registry, one class per stable reason.

    OciError
    ├── InvalidReference      the name is not an image reference
    ├── NotFound              no such repository, tag, digest or folder in the image
    ├── Unauthorized          credentials are missing or wrong (401)
    ├── Denied                credentials are good but have no right to this (403)
    ├── UntrustedRealm        the registry wants the credentials sent to somebody else
    ├── UnsafeLocation        the registry sends us to a place that we must not follow
    ├── TlsFailed             the certificate is not trusted, or there is no TLS
    ├── Unavailable           registry down, overloaded or silent; trying again can help
    ├── Truncated             the connection ended early, more often than we retry
    ├── DigestMismatch        the bytes are not those that the digest names
    ├── InvalidManifest       the manifest or index does not parse, or contradicts itself
    ├── UnsupportedMediaType  neither an OCI nor a Docker image, nor an artifact that we know
    ├── NoMatchingPlatform    the index has no manifest for this machine
    ├── UnsafeArchive         a layer tries to leave its folder, or is a bomb
    ├── TooLarge              more bytes or files than the caller allows
    ├── DiskFull              no space left where the files should go
    ├── DestinationInUse      the target folder holds something that we did not put there
    ├── FileChanged           a file became shorter while it was being sent
    ├── FileUnreadable        a file that should be sent cannot be read here
    ├── TagImmutable          the registry does not let the tag move
    └── UploadRefused         the registry refuses the blob or manifest for another reason

`reason` is the CamelCase word that ends up in conditions and reports; `retryable` says whether the same call can succeed later
without anybody changing anything.
"""

# ruff: noqa: N818 - these are the names that the registry protocol and kubecore use
from __future__ import annotations

from typing import ClassVar


class OciError(Exception):
    """Base of all errors of this package; never raised directly."""

    reason: ClassVar[str] = "OciError"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", *, by_registry: bool = False) -> None:
        """`by_registry` says of a refusal (401, 403, 404) that the registry made it, not a proxy or an ingress in its place.

        It is told by an error document or a challenge as the distribution specification has them.
        """
        super().__init__(message)
        self.by_registry = by_registry


class InvalidReference(OciError):
    """The text is not an image reference."""

    reason = "InvalidReference"


class NotFound(OciError):
    """The registry has no such repository, tag or digest, or the image has no such folder."""

    reason = "NotFound"


class Unauthorized(OciError):
    """The registry asks who we are: credentials are missing or wrong."""

    reason = "Unauthorized"


class Denied(OciError):
    """The registry knows who we are and says no."""

    reason = "Denied"


class UntrustedRealm(OciError):
    """The token endpoint that the registry names belongs to somebody else; the credentials were not sent."""

    reason = "UntrustedRealm"


class UnsafeLocation(OciError):
    """A redirect or upload location that would leave the registry or drop encryption; not followed."""

    reason = "UnsafeLocation"


class TlsFailed(OciError):
    """No encrypted connection: the certificate is not trusted, or the registry does not speak TLS."""

    reason = "TLSFailed"


class Unavailable(OciError):
    """The registry is down, overloaded or silent."""

    reason = "RegistryUnavailable"
    retryable = True


class Truncated(OciError):
    """The connection kept ending before the blob did."""

    reason = "Truncated"
    retryable = True


class DigestMismatch(OciError):
    """The bytes received are not the bytes that the digest names."""

    reason = "DigestMismatch"


class InvalidManifest(OciError):
    """The manifest or index cannot be parsed or contradicts itself."""

    reason = "InvalidManifest"


class UnsupportedMediaType(OciError):
    """A manifest or layer of a type that this package does not read."""

    reason = "UnsupportedMediaType"


class NoMatchingPlatform(OciError):
    """An index without a manifest for the wanted platform."""

    reason = "NoMatchingPlatform"


class UnsafeArchive(OciError):
    """A layer with traversal, links out, devices, or a compression ratio that only bombs have."""

    reason = "UnsafeArchive"


class TooLarge(OciError):
    """More bytes or files than the limits allow."""

    reason = "TooLarge"


class DiskFull(OciError):
    """No space left where the files should go."""

    reason = "DiskFull"


class DestinationInUse(OciError):
    """The target folder holds files that an earlier pull did not put there."""

    reason = "DestinationInUse"


class FileChanged(OciError):
    """A file became shorter while it was being sent."""

    reason = "FileChanged"


class FileUnreadable(OciError):
    """A file that should be sent cannot be read on this machine: gone, without rights, or on a disk that fails."""

    reason = "FileUnreadable"


class TagImmutable(OciError):
    """The tag exists with another digest and the registry does not let it move."""

    reason = "TagImmutable"


class UploadRefused(OciError):
    """The registry refuses a blob or manifest; the message carries its words."""

    reason = "UploadRefused"


class Cancelled(Exception):
    """Raised inside worker threads when the awaiting task was cancelled; never reaches the caller."""
