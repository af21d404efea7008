"""Everything that a call to the apiserver can raise.

    KubeError
    ├── ApiError              the server answered, and the answer is no
    │   ├── Unauthorized      401, after the credentials were read once more
    │   ├── Forbidden         403
    │   ├── NotFound          404 about the object (a Status of the apiserver says so)
    │   ├── NotServed         404 about the path: the CRD is not installed, or something in between answered
    │   ├── Conflict          409, the object changed meanwhile: read again
    │   │   └── AlreadyExists 409 on create
    │   ├── Gone              410, the resourceVersion or continue token is too old: list again
    │   ├── Invalid           400 or 422, the same request will fail again; 500 for an apply that the kind's schema refuses
    │   ├── TooManyRequests   429, `retry_after` says when
    │   └── ServerError       5xx, `retry_after` where the server gave one
    ├── TransportError        no usable answer: connection, TLS, deadline, broken or foreign body
    ├── ConfigError           no cluster to talk to, or credentials that cannot be read
    ├── NotLeader             a write was refused here, because this process does not hold the lease
    └── LeaderLost            the lease is gone: the process must exit
    TerminalError             raised by a reconcile: retrying cannot help

The apiserver's Status (apimachinery metav1.Status) is parsed here and nowhere else.
"""

# ruff: noqa: N818 - the errors are named after the reasons of the API

from __future__ import annotations

import msgspec

MAX_FOREIGN_TEXT = 200


class KubeError(Exception):
    """Base of all errors of this library; never raised itself."""


class TerminalError(Exception):
    """Raised by a reconcile whose retry cannot help. The key is not queued again until its object changes."""


class ConfigError(KubeError):
    """There is no cluster configuration, or it cannot be read. The message says what to set."""


class TransportError(KubeError):
    """No usable answer: connection, TLS, deadline, truncated or foreign body. Whether a write happened is unknown."""


class NotLeader(KubeError):
    """A write was stopped before it left, because this process does not hold its lease (any more)."""


class LeaderLost(KubeError):
    """The lease could not be renewed in time. Nothing may be written; the process must exit and start again."""


class ApiError(KubeError):
    """The server answered with an error. `reason` is metav1.StatusReason ("" where the body was no Status)."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason or 'error'}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class Unauthorized(ApiError):
    """401: the credentials were refused, also after they were read again."""


class Forbidden(ApiError):
    """403: RBAC or admission refused. Retrying helps once somebody grants the right."""


class NotFound(ApiError):
    """404 from the apiserver itself: the object does not exist."""


class NotServed(ApiError):
    """404 without a Status about an object: the kind is not installed, or a proxy answered. Never read it as "deleted"."""


class Conflict(ApiError):
    """409: the object changed since it was read, or another field manager owns the field."""


class AlreadyExists(Conflict):
    """409 on create: an object of that name exists."""


class Gone(ApiError):
    """410: the resourceVersion or continue token was compacted; list again."""


class Invalid(ApiError):
    """400 or 422: the request itself is wrong, the same one will fail again.

    So is a server-side apply with a field that the schema does not have, which kube-apiserver answers with 500.
    """


class TooManyRequests(ApiError):
    """429: throttled, or an eviction that a disruption budget refuses now."""


class ServerError(ApiError):
    """5xx: the server failed; try again later."""


class _Details(msgspec.Struct, rename="camel"):
    name: str = ""
    retry_after_seconds: int = 0


class Status(msgspec.Struct, rename="camel"):
    """The fields of metav1.Status that decide anything."""

    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_UNTYPED = "failed to create typed patch object"
"""How an apply begins to be refused by the schema (apimachinery managedfields, structuredmerge.go)."""
_decode = msgspec.json.Decoder(Status).decode
_BY_STATUS: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def error_from_status(status: Status, http_status: int = 0, retry_after: float | None = None) -> ApiError:
    """Return the error for a parsed Status: the body of a response, or the object of an ERROR event of a watch."""
    code = http_status or status.code or 500
    if retry_after is None and status.details is not None and status.details.retry_after_seconds > 0:
        retry_after = float(status.details.retry_after_seconds)
    kind = _BY_STATUS.get(code, ServerError if code >= 500 else ApiError)
    if code == 500 and _UNTYPED in status.message:
        kind = Invalid
    if code == 404:
        # an unknown kind in a known group is answered with reason NotFound too, but about no object
        kind = (
            NotFound
            if status.reason == "NotFound" and status.details is not None and status.details.name
            else NotServed
        )
    elif code == 409 and status.reason == "AlreadyExists":
        kind = AlreadyExists
    elif status.reason in ("Expired", "Gone"):
        kind = Gone
    return kind(code, status.reason, status.message, retry_after)


def error_from_response(http_status: int, body: bytes, retry_after: str | None) -> ApiError:
    """Return the error for a response with a status of 400 or more, whoever wrote its body.

    `retry_after` is the header in seconds; a date there is ignored (the apiserver sends seconds).
    """
    seconds = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    try:
        status = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = Status(message=body[:MAX_FOREIGN_TEXT].decode("utf-8", "replace").strip())
    if status.kind != "Status":
        text = status.message or body[:MAX_FOREIGN_TEXT].decode("utf-8", "replace").strip()
        status = Status(message=f"not an answer of the apiserver: {text}")
    return error_from_status(status, http_status, seconds)


def decode_status(raw: bytes | msgspec.Raw) -> Status:
    """Parse the Status inside an ERROR event. Raises TransportError when it is none."""
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TransportError(f"unreadable Status in a watch: {error}") from error
