"""Publishing survives dying in between."""

from pathlib import Path

import msgspec
import pytest

from kaito_oci.destination import MARKER, Destination, Stored
from kaito_oci.errors import DestinationInUse

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def stage(folder: Path, digest: str = DIGEST, **files: bytes) -> tuple[Destination, Path]:
    target = Destination(folder, digest, "")
    tree = target.prepare() / "tree"
    tree.mkdir()
    for name, content in files.items():
        place = tree / name.replace("__", "/")
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(content)
    return target, tree


def names(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def test_an_absent_folder_appears_whole(tmp_path: Path) -> None:
    target, tree = stage(tmp_path / "new", a=b"1", s__b=b"2")
    target.publish(tree)
    assert names(tmp_path) == [f"new/{MARKER}", "new/a", "new/s/b"]
    again = Destination(tmp_path / "new", DIGEST, "").already()
    assert again is not None
    assert again.files == {"a": 1, "s/b": 1}


@pytest.mark.parametrize(("digest", "path"), [(OTHER, ""), (DIGEST, "data")])
def test_another_digest_or_path_is_not_the_same(tmp_path: Path, digest: str, path: str) -> None:
    target, tree = stage(tmp_path / "new", a=b"1")
    target.publish(tree)
    assert Destination(tmp_path / "new", digest, path).already() is None


@pytest.mark.parametrize("moved", [[], ["a"], ["a", "b"]])
def test_a_publish_that_died_is_done_again(tmp_path: Path, moved: list[str]) -> None:
    """The marker was written, some files were moved, then the process died."""
    mount = tmp_path / "mount"
    mount.mkdir()
    (mount / MARKER).write_bytes(
        msgspec.json.encode(Stored(digest=DIGEST, path="", files={"a": 1, "b": 1}, complete=False))
    )
    for name in moved:
        (mount / name).write_bytes(b"1")
    assert Destination(mount, DIGEST, "").already() is None
    target, tree = stage(mount, a=b"1", b=b"1")
    target.publish(tree)
    assert names(mount) == [MARKER, "a", "b"]
    assert Destination(mount, DIGEST, "").already() is not None


def test_what_others_put_there_is_neither_removed_nor_covered(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    (mount / "lost+found").mkdir(parents=True)
    (mount / "theirs").write_bytes(b"!")
    target, tree = stage(mount, a=b"1")
    target.publish(tree)
    target, tree = stage(mount, OTHER, theirs=b"2")
    with pytest.raises(DestinationInUse):
        target.publish(tree)
    assert (mount / "theirs").read_bytes() == b"!"


def test_staging_of_other_digests_is_cleared_away(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    stage(mount, OTHER, large=b"x" * 1000)
    stage(mount, DIGEST, a=b"1")
    assert [folder.name for folder in mount.glob(".pull-*")] == [f".pull-{'a' * 16}"]


@pytest.mark.parametrize("junk", [b"", b"{}", b'{"digest": 3}', b"\xff"])
def test_a_marker_of_somebody_else_means_nothing(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / MARKER).write_bytes(junk)
    assert Destination(tmp_path, DIGEST, "").already() is None
