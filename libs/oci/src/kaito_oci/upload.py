"""One blob to a registry: skipped where it is there, streamed in one PUT, continued in chunks where that breaks.

oras-py reads a blob whole into memory for its single PUT, and cannot continue a chunked upload.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextlib import closing
from urllib.parse import urlencode, urlsplit

import requests

from kaito_oci import refusal, retry
from kaito_oci.blobs import Blob
from kaito_oci.body import Body, SeekableReader
from kaito_oci.errors import OciError, TooLarge, Unavailable, UploadRefused
from kaito_oci.operation import CURRENT
from kaito_oci.registry import HardenedRegistry

CHUNK = 16 * 1024 * 1024
"""Bytes per PATCH when an upload goes on in chunks; more where the registry asks for more."""
_PUSH = "pull,push"
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")

OnBytes = Callable[[int], None]


def exists(registry: HardenedRegistry, digest: str) -> bool:
    """Whether the repository has the blob already."""
    response = registry.do_request(registry.url(f"blobs/{digest}"), "HEAD", actions=_PUSH)
    response.close()
    if response.status_code in {200, 404}:
        return response.status_code == 200
    raise refusal.error(response, f"{registry.reference.name}, blob {digest[:19]}")


def prove_rights(registry: HardenedRegistry) -> None:
    """Open an upload and cancel it: only who may push can. Leaves nothing behind. Raises Unauthorized, Denied and others."""
    location, _ = _open(registry)
    response = registry.do_request(location, "DELETE", actions=_PUSH)
    response.close()  # a registry that cannot cancel lets the session expire: no reason to refuse the user


def upload(registry: HardenedRegistry, blob: Blob, on_bytes: OnBytes) -> bool:
    """Bring a blob to the registry; False when it was there already. Raises OciError."""
    descriptor = blob.descriptor
    if exists(registry, descriptor.digest):
        on_bytes(descriptor.size)
        return False
    sent = _Sent(on_bytes)
    with closing(blob.open()) as reader:
        try:
            _whole(registry, reader, blob, sent)
        except (Unavailable, TooLarge):
            # A proxy that caps the size of a request, or a line that breaks: smaller pieces help with both.
            sent.rewind()
            _chunked(registry, reader, blob, sent)
    return True


class _Sent:
    """Bytes reported so far, to take back what has to be sent again."""

    def __init__(self, on_bytes: OnBytes) -> None:
        self._on_bytes = on_bytes
        self.count = 0

    def add(self, count: int) -> None:
        self.count += count
        self._on_bytes(count)

    def rewind(self, to: int = 0) -> None:
        self.add(to - self.count)


def _open(registry: HardenedRegistry) -> tuple[str, int]:
    """A new upload session: where it goes on, and the least size of a chunk (OCI-Chunk-Min-Length)."""
    response = registry.do_request(registry.url("blobs/uploads/"), "POST", data=b"", actions=_PUSH)
    with response:
        if response.status_code != 202:
            raise refusal.error(response, f"{registry.reference.name}, opening an upload")
    least = response.headers.get("OCI-Chunk-Min-Length", "0")
    return registry._get_location(response), int(least) if least.isdigit() else 0


def _whole(registry: HardenedRegistry, reader: SeekableReader, blob: Blob, sent: _Sent) -> None:
    location, _ = _open(registry)
    body = Body(reader, 0, blob.descriptor.size, sent.add)
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.descriptor.size)}
    response = registry.do_request(
        _with_digest(location, blob), "PUT", data=body if len(body) else b"", headers=headers, actions=_PUSH
    )
    _stored(registry, response, blob)


def _chunked(registry: HardenedRegistry, reader: SeekableReader, blob: Blob, sent: _Sent) -> None:
    """POST, PATCH by PATCH, PUT; after a break the registry is asked how much it has."""
    patience, size = registry.settings.patience, blob.descriptor.size
    location, least = _open(registry)
    step, start, breaks = max(CHUNK, least), 0, 0
    while start < size:
        end = min(start + step, size)
        try:
            location = _patch(registry, location, Body(reader, start, end - start, sent.add))
        except Unavailable:
            breaks += 1
            if breaks >= patience.attempts:
                raise
            CURRENT.get().wait(retry.pause(patience, breaks - 1, random.random(), None))
            location, start = _progress(registry, location)
            sent.rewind(start)
            continue
        start, breaks = end, 0
    response = registry.do_request(_with_digest(location, blob), "PUT", data=b"", actions=_PUSH)
    _stored(registry, response, blob)


def _patch(registry: HardenedRegistry, location: str, body: Body) -> str:
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(len(body)),
        "Content-Range": f"{body.start}-{body.start + len(body) - 1}",
    }
    response = registry.do_request(location, "PATCH", data=body, headers=headers, actions=_PUSH)
    with response:
        if response.status_code == 416:
            raise Unavailable(f"{registry.hostname} has another part of the upload than was sent")
        if response.status_code not in {202, 204}:
            raise refusal.error(response, f"{registry.reference.name}, uploading")
    return registry._get_location(response)


def _progress(registry: HardenedRegistry, location: str) -> tuple[str, int]:
    """Where a broken upload goes on, and from which byte; from the start in a new session where the registry forgot it."""
    response = registry.do_request(location, "GET", actions=_PUSH)
    with response:
        if response.status_code == 404:
            return _open(registry)[0], 0
        if response.status_code != 204:
            raise refusal.error(response, f"{registry.reference.name}, asking about an upload")
    found = _RANGE.fullmatch(response.headers.get("Range", ""))
    last = int(found.group(1)) if found else 0
    # "0-0" means one byte or none, depending on the registry: one byte is cheap to send again in a new session.
    if last == 0:
        return _open(registry)[0], 0
    return registry._get_location(response), last + 1


def _stored(registry: HardenedRegistry, response: requests.Response, blob: Blob) -> None:
    with response:
        if response.status_code == 201:
            return
        problem: OciError = refusal.error(response, f"{registry.reference.name}, blob {blob.descriptor.digest[:19]}")
    if isinstance(problem, UploadRefused) and response.status_code == 400:
        raise UploadRefused(f"{problem}; was the file changed while it was being sent?")
    raise problem


def _with_digest(location: str, blob: Blob) -> str:
    parts = urlsplit(location)
    query = urlencode({"digest": blob.descriptor.digest})
    return parts._replace(query=f"{parts.query}&{query}" if parts.query else query).geturl()
