"""Media types of the OCI image spec 1.1, Docker's schema 2 and CNCF ModelPack 0.0.7."""

from __future__ import annotations

from typing import Final

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
OCI_LAYER_TAR: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = f"{OCI_LAYER_TAR}+gzip"
OCI_LAYER_ZSTD: Final = f"{OCI_LAYER_TAR}+zstd"

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_TAR: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"

MODELPACK_MANIFEST: Final = "application/vnd.cncf.model.manifest.v1+json"
MODELPACK_CONFIG: Final = "application/vnd.cncf.model.config.v1+json"
MODELPACK_PREFIX: Final = "application/vnd.cncf.model."
MODELPACK_WEIGHT_RAW: Final = "application/vnd.cncf.model.weight.v1.raw"
MODELPACK_WEIGHT_CONFIG_RAW: Final = "application/vnd.cncf.model.weight.config.v1.raw"
MODELPACK_DOC_RAW: Final = "application/vnd.cncf.model.doc.v1.raw"

TITLE: Final = "org.opencontainers.image.title"
"""Annotation with the file name of a blob, as ORAS writes it."""
ORAS_UNPACK: Final = "io.deis.oras.content.unpack"
"""Annotation "true" on a folder that the ORAS CLI packed."""
MODELPACK_FILEPATH: Final = "org.cncf.model.filepath"

MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
IMAGE_CONFIGS: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
ACCEPT: Final = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))

_IMAGE_LAYERS: Final = {
    OCI_LAYER_TAR: "",
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    DOCKER_LAYER_TAR: "",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
}


def image_layer_compression(media_type: str) -> str | None:
    """`gzip`, `zstd` or "" (none) for a layer of an image; None for any other type. Non-distributable layers count too."""
    plain = media_type.replace(".layer.nondistributable.v1.", ".layer.v1.").replace(
        ".rootfs.foreign.diff.", ".rootfs.diff."
    )
    return _IMAGE_LAYERS.get(plain)
