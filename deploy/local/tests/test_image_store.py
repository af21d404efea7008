"""The builder's cache, and images as archives and layouts."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from kaito_local.images.archive import write_archive, write_layout
from kaito_local.images.blobs import BlobStore
from kaito_local.images.build import assemble
from kaito_local.images.inputs import pins, tree_digest
from kaito_local.images.spec import LAYER, Blob, Image, Runtime, blob_of


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


def _image(store: BlobStore, name: str = "tuner", *layers: bytes) -> Image:
    blobs = {f"layer {n}": store.put(LAYER, data) for n, data in enumerate(layers or (b"base", b"code"))}
    return assemble(store, name, "0.1.0", Runtime(entrypoint=("/opt/venv/bin/x",)), blobs)


def test_a_layer_is_made_once_for_equal_inputs(store: BlobStore) -> None:
    made = []

    def make(target: object) -> Blob:
        made.append(1)
        target.write(b"data")  # type: ignore[attr-defined]  # a binary file
        return blob_of(LAYER, b"data")

    assert store.layer("key", make) == store.layer("key", make) == blob_of(LAYER, b"data")
    assert made == [1]
    store.path(blob_of(LAYER, b"data")).unlink()
    store.layer("key", make)
    assert made == [1, 1], "a remembered layer whose bytes are gone is made again"


def test_a_failed_layer_leaves_nothing_behind(store: BlobStore) -> None:
    def fail(_: object) -> Blob:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        store.layer("key", fail)
    assert store.remembered("key") is None
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_a_truncated_blob_is_not_trusted(store: BlobStore) -> None:
    blob = store.layer("key", lambda target: (target.write(b"data"), blob_of(LAYER, b"data"))[1])
    store.path(blob).write_bytes(b"dat")
    assert store.remembered("key") is None


def test_sharing_survives_repetition(store: BlobStore, tmp_path: Path) -> None:
    blob = store.put(LAYER, b"data")
    twin = tmp_path / "twin"
    twin.write_bytes(b"data")
    assert store.share(blob, twin)
    assert store.share(blob, twin)
    assert store.path(blob).samefile(twin)
    assert not store.share(blob, tmp_path / "absent")
    assert [path.name for path in store.path(blob).parent.iterdir()] == [store.path(blob).name]


def test_pruning_keeps_what_is_named_and_files_that_others_are_writing(store: BlobStore) -> None:
    kept, dropped = store.put(LAYER, b"kept"), store.put(LAYER, b"dropped")
    store.path(kept).with_name(".new-1").write_bytes(b"half")
    assert store.prune({kept.digest}) == len(b"dropped")
    assert store.has(kept)
    assert not store.has(dropped)
    assert store.path(kept).with_name(".new-1").exists()


def test_equal_images_have_equal_names_and_different_ones_do_not(tmp_path: Path) -> None:
    one, two = (_image(BlobStore(tmp_path / name)) for name in "ab")
    assert one == two
    assert one.tag == f"0.1.0-{one.manifest.digest.removeprefix('sha256:')[:12]}"
    assert _image(BlobStore(tmp_path / "c"), "tuner", b"base", b"other code").tag != one.tag


def _read(stream: io.BytesIO) -> dict[str, bytes]:
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]  # regular files


def _assert_valid(files: dict[str, bytes], reference: str) -> None:
    """What the OCI image layout asks for: every descriptor leads to bytes of that digest and size."""
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == reference
    manifest = json.loads(files["blobs/" + entry["digest"].replace(":", "/")])
    for descriptor in [entry, manifest["config"], *manifest["layers"]]:
        data = files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert descriptor["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert descriptor["size"] == len(data)
    config = json.loads(files["blobs/" + manifest["config"]["digest"].replace(":", "/")])
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    assert len(config["history"]) == len(manifest["layers"])
    assert config["config"]["User"] == "1000:1000"


def test_an_archive_is_a_valid_layout(store: BlobStore) -> None:
    image = _image(store)
    target = io.BytesIO()
    written = write_archive(store, [image], "kaito.local", target)
    assert written == sum(blob.size for blob in image.blobs)
    _assert_valid(_read(target), image.reference("kaito.local"))


def test_an_archive_leaves_out_what_the_receiver_has(store: BlobStore) -> None:
    image = _image(store)
    target = io.BytesIO()
    written = write_archive(store, [image, image], "kaito.local", target, present=[image.layers[0].digest])
    assert written == sum(blob.size for blob in image.blobs[1:])
    names = set(_read(target))
    assert f"blobs/{image.layers[0].digest.replace(':', '/')}" not in names
    assert f"blobs/{image.layers[1].digest.replace(':', '/')}" in names


def test_a_layout_folder_is_valid_and_costs_no_disk(store: BlobStore, tmp_path: Path) -> None:
    image = _image(store)
    folder = tmp_path / "layout"
    write_layout(store, [image], "registry.example/kaito", folder)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    _assert_valid(files, image.reference("registry.example/kaito"))
    layer = image.layers[0]
    assert (folder / "blobs" / layer.digest.replace(":", "/")).samefile(store.path(layer))


def test_pins_ignore_uvs_header_and_comments() -> None:
    text = "# by uv via: uv export --x\naiohttp==3.14.5 \\\n    --hash=sha256:ab\n    # via kubecore\n"
    assert pins(text) == "aiohttp==3.14.5 \\\n    --hash=sha256:ab"


def test_tree_digest_sees_names_and_contents_and_no_caches(tmp_path: Path) -> None:
    root = tmp_path / "src"
    (root / "pkg" / "__pycache__").mkdir(parents=True)
    (root / "pkg" / "a.py").write_text("1")
    before = tree_digest([root])
    (root / "pkg" / "__pycache__" / "a.pyc").write_text("compiled")
    assert tree_digest([root]) == before
    (root / "pkg" / "a.py").rename(root / "pkg" / "b.py")
    assert tree_digest([root]) != before
