"""A registry in memory behind a ScriptedServer, honest unless a test overrides some of its answers."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from kaito_oci import media_types
from kaito_oci.digest import sha256
from kaito_oci.testing.scripted_server import Reply, Request

Override = Callable[[Request], Reply | None]
_PATH = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs)/(?P<target>.+)")


class ScriptedRegistry:
    """Callable as a server's handler. Overrides are asked first, the newest first; None means "as usual"."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.overrides: list[Override] = []
        self._uploads: dict[str, bytes] = {}

    def __call__(self, request: Request) -> Reply:
        """Answer one request."""
        for override in reversed(self.overrides):
            if (reply := override(request)) is not None:
                return reply
        return self.honest(request)

    def add_blob(self, content: bytes) -> dict[str, object]:
        """Store a blob; its digest and size."""
        digest = sha256(content)
        self.blobs[digest] = content
        return {"digest": digest, "size": len(content)}

    def add_manifest(self, manifest: object, tag: str = "v1", media_type: str = media_types.OCI_MANIFEST) -> str:
        """Store a manifest (an object, or exact bytes) under a tag and its digest."""
        body = manifest if isinstance(manifest, bytes) else msgspec.json.encode(manifest)
        digest = sha256(body)
        self.manifests[tag] = self.manifests[digest] = (body, media_type)
        return digest

    def add_image(self, *layers: bytes, tag: str = "v1", media_type: str = media_types.OCI_LAYER_TAR) -> str:
        """Store an image of these layers."""
        config = {"mediaType": media_types.OCI_CONFIG, **self.add_blob(b"{}")}
        parts = [{"mediaType": media_type, **self.add_blob(layer)} for layer in layers]
        return self.add_manifest(
            {"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "config": config, "layers": parts}, tag
        )

    def add_artifact(self, files: dict[str, bytes], tag: str = "v1") -> str:
        """Store an artifact with one raw blob per file."""
        config = {"mediaType": media_types.OCI_EMPTY, **self.add_blob(b"{}")}
        parts = [
            {
                "mediaType": "application/octet-stream",
                "annotations": {media_types.TITLE: name},
                **self.add_blob(content),
            }
            for name, content in files.items()
        ]
        return self.add_manifest(
            {"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "config": config, "layers": parts}, tag
        )

    def honest(self, request: Request) -> Reply:
        """What a registry should say."""
        if "/blobs/uploads/" in request.path:
            return self._upload(request)
        found = _PATH.fullmatch(request.path)
        if not found:
            return Reply(404)
        if found["kind"] == "manifests":
            return self._manifest(request, found["target"])
        content = self.blobs.get(found["target"])
        return Reply(404) if content is None else _ranged(request, content)

    def _manifest(self, request: Request, target: str) -> Reply:
        if request.method == "PUT":
            digest = self.add_manifest(request.body, target, request.headers["content-type"])
            return Reply(201, {"Docker-Content-Digest": digest})
        if target not in self.manifests:
            return Reply(404, body=b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
        body, media_type = self.manifests[target]
        return Reply(200, {"Content-Type": media_type, "Docker-Content-Digest": sha256(body)}, body)

    def _upload(self, request: Request) -> Reply:
        if request.method == "POST":
            session = f"{request.path}{len(self._uploads)}"
            self._uploads[session] = b""
            return Reply(202, {"Location": session})
        if request.path not in self._uploads:
            return Reply(404)
        here = {"Location": request.path, "Range": f"0-{max(len(self._uploads[request.path]) - 1, 0)}"}
        if request.method == "DELETE":
            return Reply(204)
        if request.method == "GET":
            return Reply(204, here)
        if request.method == "PATCH" and not request.headers["content-range"].startswith(
            f"{len(self._uploads[request.path])}-"
        ):
            return Reply(416, here)
        self._uploads[request.path] += request.body
        if request.method == "PATCH":
            return Reply(202, here | {"Range": f"0-{len(self._uploads[request.path]) - 1}"})
        content = self._uploads.pop(request.path)
        if sha256(content) != request.query.get("digest"):
            return Reply(400, body=b'{"errors":[{"code":"DIGEST_INVALID","message":"digest did not match"}]}')
        self.add_blob(content)
        return Reply(201)


def _ranged(request: Request, content: bytes) -> Reply:
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if not wanted:
        return Reply(200, body=content)
    start, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
    return Reply(206, {"Content-Range": f"bytes {start}-{last}/{len(content)}"}, content[start : last + 1])
