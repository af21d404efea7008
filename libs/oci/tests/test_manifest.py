import json

import pytest

from kaito_oci import Limits, Manifest, Platform, media_types
from kaito_oci.contents import Shape, plan
from kaito_oci.errors import InvalidManifest, NoMatchingPlatform, OciError, UnsafeArchive, UnsupportedMediaType
from kaito_oci.manifest import Index, parse
from kaito_oci.platforms import choose

DIGEST = "sha256:" + "a" * 64
CONFIG = {"mediaType": media_types.OCI_CONFIG, "digest": DIGEST, "size": 2}
LIMITS = Limits(max_layers=3)


def layer(media_type: str, title: str = "", **more: object) -> dict[str, object]:
    notes = {"annotations": {media_types.TITLE: title}} if title else {}
    return {"mediaType": media_type, "digest": DIGEST, "size": 5, **notes, **more}


def manifest(*layers: dict[str, object], config: str = media_types.OCI_CONFIG, **more: object) -> bytes:
    whole = {"schemaVersion": 2, "config": CONFIG | {"mediaType": config}, "layers": layers, **more}
    return json.dumps(whole).encode()


def index(*platforms: str, **more: object) -> bytes:
    entries = []
    for position, name in enumerate(platforms):
        system, _, cpu = name.partition("/")
        entry = {"mediaType": media_types.OCI_MANIFEST, "digest": "sha256:" + f"{position:064d}", "size": 7}
        entries.append(entry | ({"platform": {"os": system, "architecture": cpu}} if name else {}))
    return json.dumps({"schemaVersion": 2, "manifests": entries, **more}).encode()


@pytest.mark.parametrize(
    ("body", "content_type", "error"),
    [
        (b"not json", "", InvalidManifest),
        (b"[]", "", InvalidManifest),
        (b'{"schemaVersion":2,"x":' + b"[" * 100_000, "", InvalidManifest),
        (b'{"schemaVersion":1}', "", UnsupportedMediaType),
        (manifest(mediaType="application/x"), "", UnsupportedMediaType),
        (manifest(mediaType=media_types.OCI_MANIFEST), media_types.OCI_INDEX, InvalidManifest),
        (manifest(manifests=[]), "", InvalidManifest),
        (manifest(layer("x") | {"digest": "sha256:../../etc"}), "", InvalidManifest),
        (manifest(layer("x") | {"size": -1}), "", InvalidManifest),
        (manifest(layer("x") | {"size": 1.5}), "", InvalidManifest),
        (manifest(*[layer("x")] * 4), "", InvalidManifest),
        (b'{"schemaVersion":2,"config":{}}', "", InvalidManifest),
    ],
)
def test_refuses_manifests_that_contradict_themselves(body: bytes, content_type: str, error: type[OciError]) -> None:
    with pytest.raises(error):
        parse(body, content_type, LIMITS)


@pytest.mark.parametrize(
    "content_type", ["", media_types.OCI_MANIFEST, f"{media_types.DOCKER_MANIFEST}; charset=utf-8", "text/plain"]
)
def test_knows_a_manifest_whatever_the_header_says(content_type: str) -> None:
    assert isinstance(parse(manifest(layer("x", "a")), content_type, LIMITS), Manifest)


ARM = Platform(os="linux", architecture="arm64")


@pytest.mark.parametrize(
    ("platforms", "chosen"),
    [
        (("linux/amd64", "linux/arm64"), 1),
        (("linux/amd64", "unknown/unknown"), 0),
        (("",), 0),
        (("unknown/unknown", "linux/arm64", "windows/arm64"), 1),
    ],
)
def test_chooses_the_platform(platforms: tuple[str, ...], chosen: int) -> None:
    found = parse(index(*platforms), "", Limits())
    assert isinstance(found, Index)
    assert choose(found, ARM) == found.manifests[chosen]


@pytest.mark.parametrize("platforms", [("linux/amd64", "linux/s390x"), ("unknown/unknown",), ()])
def test_says_what_an_index_offers_instead(platforms: tuple[str, ...]) -> None:
    found = parse(index(*platforms), media_types.OCI_INDEX, Limits())
    assert isinstance(found, Index)
    with pytest.raises(NoMatchingPlatform, match="linux/arm64"):
        choose(found, ARM)


FOLDER = {"annotations": {media_types.TITLE: "sub", media_types.ORAS_UNPACK: "true"}}


@pytest.mark.parametrize(
    ("one", "config", "shape", "name", "compression"),
    [
        (layer(media_types.OCI_LAYER_TAR), media_types.OCI_CONFIG, Shape.TREE, "", ""),
        (layer(media_types.OCI_LAYER_ZSTD, "ignored"), media_types.OCI_CONFIG, Shape.TREE, "", "zstd"),
        (layer(media_types.DOCKER_LAYER_GZIP), media_types.DOCKER_CONFIG, Shape.TREE, "", "gzip"),
        (
            layer("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
            media_types.OCI_CONFIG,
            Shape.TREE,
            "",
            "gzip",
        ),
        (
            layer(media_types.OCI_LAYER_TAR, "a/b.bin"),
            "application/vnd.unknown.config.v1+json",
            Shape.FILE,
            "a/b.bin",
            "",
        ),
        (layer(media_types.OCI_LAYER_GZIP, "x.tar.gz"), media_types.OCI_EMPTY, Shape.FILE, "x.tar.gz", ""),
        (layer(media_types.OCI_LAYER_GZIP, "sub"), media_types.OCI_EMPTY, Shape.TREE, "", "gzip"),
        (layer(media_types.OCI_LAYER_TAR, **FOLDER), media_types.OCI_EMPTY, Shape.TREE, "", ""),
        (
            layer(media_types.MODELPACK_WEIGHT_RAW, "m.safetensors"),
            media_types.MODELPACK_CONFIG,
            Shape.FILE,
            "m.safetensors",
            "",
        ),
        (layer("application/vnd.cncf.model.doc.v1.tar+zstd"), media_types.MODELPACK_CONFIG, Shape.TREE, "", "zstd"),
        (layer("application/octet-stream", "./w"), media_types.OCI_EMPTY, Shape.FILE, "w", ""),
    ],
)
def test_plans_what_each_layer_becomes(
    one: dict[str, object], config: str, shape: Shape, name: str, compression: str
) -> None:
    found = parse(manifest(one, config=config), "", Limits())
    assert isinstance(found, Manifest)
    [content] = plan(found)
    assert (content.shape, content.name, content.compression) == (shape, name, compression)


@pytest.mark.parametrize(
    ("layers", "error"),
    [
        ([], UnsupportedMediaType),
        ([layer("application/octet-stream")], UnsupportedMediaType),
        ([layer("application/vnd.cncf.model.weight.v1.raw")], UnsupportedMediaType),
        ([layer("application/x", "../up")], UnsafeArchive),
        ([layer("application/x", "/")], InvalidManifest),
        ([layer("application/x", "a"), layer("application/x", "./a")], InvalidManifest),
    ],
)
def test_refuses_layers_that_cannot_be_stored(layers: list[dict[str, object]], error: type[OciError]) -> None:
    found = parse(manifest(*layers, config=media_types.OCI_EMPTY), "", Limits())
    assert isinstance(found, Manifest)
    with pytest.raises(error):
        plan(found)
