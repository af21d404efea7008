"""The image store that nodes start from, on a real containerd: imported once, copied by links, robust against kills."""

import shutil
from pathlib import Path

import pytest

from kaito_local import host
from kaito_local.errors import CommandError
from kaito_local.images.blobs import BlobStore
from kaito_local.images.build import assemble, image_store
from kaito_local.images.spec import Image, Runtime
from kaito_local.images.store import _containerd, load_template, seed, template_root
from kaito_local.images.tarball import Tree, write_layer
from kaito_local.processes import ProcessTable, alive

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PREFIX = "kaito.local"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    if reason := host.obstacle_here():
        pytest.skip(reason)
    monkeypatch.setenv("KAITO_CACHE", str(tmp_path / "cache"))
    return image_store()


def _image(store: BlobStore, tmp_path: Path, code: str) -> Image:
    for name, text in (("base", "the base"), ("code", code)):
        (tmp_path / name / "opt").mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "opt" / name).write_text(text)
    layers = {
        name: store.layer(
            f"{name}-{text}", lambda target, name=name: write_layer([Tree(source=tmp_path / name)], target)
        )
        for name, text in (("base", ""), ("code", code))
    }
    return assemble(store, "tuner", "0.1.0", Runtime(), layers)


async def _images_of(root: Path) -> set[str]:
    async with _containerd(root) as containerd:
        return await containerd.references()


async def test_a_node_starts_with_the_images_of_the_template_and_shares_its_disk(
    store: BlobStore, tmp_path: Path
) -> None:
    image = _image(store, tmp_path, "v1")
    assert not await seed(tmp_path / "node")
    assert await load_template(store, [image], PREFIX) == [image.reference(PREFIX)]
    assert await load_template(store, [image], PREFIX) == []
    assert await seed(tmp_path / "node")
    assert await _images_of(tmp_path / "node") == {image.reference(PREFIX)}
    unpacked = sorted(path.read_text() for path in (tmp_path / "node").rglob("fs/opt/*"))
    assert unpacked == ["the base", "v1"]
    content = "io.containerd.content.v1.content/blobs/sha256"
    blob = image.layers[0].digest.removeprefix("sha256:")
    for place in (template_root(), tmp_path / "node"):
        assert (place / content / blob).samefile(store.path(image.layers[0]))


async def test_a_new_build_replaces_the_old_one_and_leaves_earlier_nodes_alone(
    store: BlobStore, tmp_path: Path
) -> None:
    old, new = (_image(store, tmp_path, version) for version in ("v1", "v2"))
    await load_template(store, [old], PREFIX)
    await seed(tmp_path / "node")
    assert await load_template(store, [new], PREFIX) == [new.reference(PREFIX)]
    assert await _images_of(template_root()) == {new.reference(PREFIX)}
    assert not (template_root() / "io.containerd.content.v1.content/blobs/sha256" / old.layers[1].digest[7:]).exists()
    assert await _images_of(tmp_path / "node") == {old.reference(PREFIX)}
    async with _containerd(tmp_path / "node") as containerd:
        assert await containerd.load(store, [new], PREFIX) == [new.reference(PREFIX)]
        assert await containerd.references() == {new.reference(PREFIX)}


async def test_a_containerd_that_a_killed_import_left_is_ended(store: BlobStore, tmp_path: Path) -> None:
    image = _image(store, tmp_path, "v1")
    config = tmp_path / "orphan.toml"
    config.write_text(
        f'version = 2\nroot = "{template_root()}"\nstate = "{tmp_path}/s"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{tmp_path}/s.sock"\n'
    )
    template_root().mkdir(parents=True)
    program = shutil.which("containerd") or ""
    orphan = ProcessTable(template_root().with_name("containerd-process")).start("containerd", [program, "-c", config])
    assert alive(orphan)
    assert await load_template(store, [image], PREFIX) == [image.reference(PREFIX)]
    assert not alive(orphan)


async def test_an_import_that_fails_says_why_and_is_made_good_later(store: BlobStore, tmp_path: Path) -> None:
    image = _image(store, tmp_path, "v1")
    good = store.path(image.layers[0]).read_bytes()
    store.path(image.layers[0]).write_bytes(b"x" * image.layers[0].size)
    async with _containerd(tmp_path / "root") as containerd:
        with pytest.raises(CommandError, match=f"{image.layers[0].digest}: not found"):
            await containerd.load(store, [image], PREFIX)
        store.path(image.layers[0]).write_bytes(good)
        assert await containerd.load(store, [image], PREFIX) == [image.reference(PREFIX)], "half an image is none"
    assert sorted(path.read_text() for path in (tmp_path / "root").rglob("fs/opt/*")) == ["the base", "v1"]
