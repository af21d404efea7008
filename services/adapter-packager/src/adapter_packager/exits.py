"""Why the process ends: exit codes, and the reasons that go with them. The controller's podFailurePolicy relies on the codes."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Final

from kaito_oci import DockerConfigError, OciError, errors


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    UNEXPECTED = 1
    """Something that nobody thought of: the report has its words, the log the traceback. Another pod may do better."""
    USAGE = 64
    """The command line or a reference is wrong."""
    ADAPTER_INVALID = 65
    """The adapter cannot be served, or what a registry holds is not a whole adapter."""
    ADAPTER_MISSING = 66
    """The folder, a file in it, or the image in the registry is not there, or a file cannot be read."""
    CONTENT_REFUSED = 67
    """What the registry sends is damaged, hostile or too large."""
    REGISTRY_UNAVAILABLE = 69
    """The registry is down or too slow; the same command can succeed later."""
    ACCESS_DENIED = 72
    """The Secret is missing or wrong, or its owner may not do this."""
    PUSH_REFUSED = 73
    """The registry lets us in and refuses this push: immutable tag, read-only, quota."""
    DISK_FULL = 74
    """No space left on this side."""
    SIGNING_KEY = 75
    """The key to sign with is missing, or of a kind that is not supported."""
    REGISTRY_UNTRUSTED = 76
    """The registry's certificate is not trusted, or it speaks no TLS."""
    CANCELLED = 143
    """SIGTERM or Ctrl-C."""


UNEXPECTED_REASON: Final = "Unexpected"
"""In the report of a container that ended with UNEXPECTED."""


class PackagerError(Exception):
    """The command cannot go on. `str()` is what the user reads: what is wrong, then what to do."""

    code: ClassVar[ExitCode]

    def __init__(self, reason: str, message: str) -> None:
        """`reason` is one CamelCase word for the report."""
        super().__init__(message)
        self.reason = reason


class AdapterInvalid(PackagerError):  # noqa: N818 - the words of the report
    """The adapter was refused by the check; `reason` is the first problem's."""

    code = ExitCode.ADAPTER_INVALID


class AdapterMissing(PackagerError):  # noqa: N818 - the words of the report
    """There is no adapter where one should be."""

    code = ExitCode.ADAPTER_MISSING

    def __init__(self, message: str) -> None:
        super().__init__("AdapterMissing", message)


class SecretProblem(PackagerError):  # noqa: N818 - the words of the report
    """The push Secret cannot be used."""

    code = ExitCode.ACCESS_DENIED

    def __init__(self, reason: str, message: str, *, retryable: bool) -> None:
        super().__init__(reason, message)
        self.retryable = retryable


class SigningKeyProblem(SecretProblem):
    """The key that signs or verifies cannot be used. In a pod it may still come: its Secret is mounted."""

    code = ExitCode.SIGNING_KEY


class SignatureProblem(PackagerError):  # noqa: N818 - the words of the report
    """The adapter is not signed, or not by this key."""

    code = ExitCode.CONTENT_REFUSED


_CODES: dict[type[OciError], ExitCode] = {
    errors.InvalidReference: ExitCode.USAGE,
    errors.NotFound: ExitCode.ADAPTER_MISSING,
    errors.Unauthorized: ExitCode.ACCESS_DENIED,
    errors.Denied: ExitCode.ACCESS_DENIED,
    errors.UntrustedRealm: ExitCode.ACCESS_DENIED,
    errors.TlsFailed: ExitCode.REGISTRY_UNTRUSTED,
    errors.Unavailable: ExitCode.REGISTRY_UNAVAILABLE,
    errors.Truncated: ExitCode.REGISTRY_UNAVAILABLE,
    errors.TagImmutable: ExitCode.PUSH_REFUSED,
    errors.UploadRefused: ExitCode.PUSH_REFUSED,
    errors.DiskFull: ExitCode.DISK_FULL,
    errors.DestinationInUse: ExitCode.DISK_FULL,
    errors.FileChanged: ExitCode.ADAPTER_INVALID,
    errors.FileUnreadable: ExitCode.ADAPTER_MISSING,
}


def code_of(error: OciError | PackagerError | DockerConfigError) -> ExitCode:
    """The exit code that an error ends the process with."""
    if isinstance(error, PackagerError):
        return error.code
    if isinstance(error, DockerConfigError):
        return ExitCode.ACCESS_DENIED
    return _CODES.get(type(error), ExitCode.CONTENT_REFUSED)


def reason_of(error: OciError | PackagerError | DockerConfigError) -> str:
    """The CamelCase reason of an error, for reports."""
    return "SecretInvalid" if isinstance(error, DockerConfigError) else error.reason


def words_of(error: Exception) -> str:
    """An error that nobody thought of, in words: its kind, the file or peer where it names one, and what it says."""
    return f"unexpected: {type(error).__name__}: {error}"


def may_pass(error: OciError | PackagerError | DockerConfigError) -> bool:
    """Whether holding on can help: the registry comes back, or somebody repairs the Secret, the rights or the certificate."""
    if isinstance(error, PackagerError):
        return isinstance(error, SecretProblem) and error.retryable
    if isinstance(error, DockerConfigError):
        return True
    return error.retryable or isinstance(error, errors.Unauthorized | errors.Denied | errors.TlsFailed)
