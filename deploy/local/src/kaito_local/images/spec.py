"""OCI image documents as pure functions: layers in, canonical JSON out.

Source: OCI image specification v1.1 (config, manifest, index).
"""

import hashlib
import json

import msgspec

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"

# One fixed moment for every file and image: 2026-01-01T00:00:00Z. Zip-based tools refuse dates before 1980.
EPOCH_SECONDS = 1_767_225_600
EPOCH_TEXT = "2026-01-01T00:00:00Z"


class Blob(msgspec.Struct, frozen=True):
    """A content-addressed piece of an image; the digest is ``sha256:<hex>``, the size is in bytes."""

    media_type: str
    digest: str
    size: int

    def descriptor(self) -> dict[str, object]:
        """The blob as an OCI descriptor."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """What the image's config says about the process that it starts."""

    entrypoint: tuple[str, ...] = ()
    user: str = "1000:1000"
    env: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    working_dir: str = "/"


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A built image: its short name, its documents and all blobs that it consists of."""

    name: str
    tag: str
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]

    def reference(self, prefix: str) -> str:
        """The full name under a registry prefix, e.g. ``10.0.0.1:5000/kaito/tuner:0.1.0-ab12``."""
        return f"{prefix}/{self.name}:{self.tag}"

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Every blob in the order in which an archive carries them: layers, config, manifest."""
        return (*self.layers, self.config, self.manifest)


def canonical(document: object) -> bytes:
    """JSON with sorted keys and no spaces, so that equal documents have equal digests."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def blob_of(media_type: str, data: bytes) -> Blob:
    """The descriptor of some bytes."""
    return Blob(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


def config_document(runtime: Runtime, layers: tuple[Blob, ...], comments: tuple[str, ...]) -> bytes:
    """The image config; uncompressed layers are their own diff IDs."""
    return canonical(
        {
            "created": EPOCH_TEXT,
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "User": runtime.user,
                "Env": [f"{key}={value}" for key, value in runtime.env],
                "Entrypoint": list(runtime.entrypoint),
                "WorkingDir": runtime.working_dir,
                "Labels": dict(runtime.labels),
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            "history": [{"created": EPOCH_TEXT, "created_by": comment} for comment in comments],
        }
    )


def manifest_document(config: Blob, layers: tuple[Blob, ...], annotations: dict[str, str] | None = None) -> bytes:
    """The image manifest."""
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": [layer.descriptor() for layer in layers],
    }
    if annotations:
        document["annotations"] = annotations
    return canonical(document)


def index_document(images: list[tuple[str, Blob]]) -> bytes:
    """The index of an image layout; each manifest carries the full name that tools file it under."""
    manifests = []
    for reference, manifest in images:
        annotations = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference}
        manifests.append({**manifest.descriptor(), "annotations": annotations})
    return canonical({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
