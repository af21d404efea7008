"""Layers: equal trees give equal bytes, and what is inside can be read by a container's user."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from kaito_local.images.spec import EPOCH_SECONDS, LAYER, Blob
from kaito_local.images.tarball import Tree, write_layer


def _tree(root: Path, order: list[str]) -> Path:
    for name in order:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    return root


def _written(*trees: Tree) -> tuple[Blob, dict[str, tarfile.TarInfo], dict[str, str]]:
    """The layer's descriptor, its members, and the text of its files."""
    target = io.BytesIO()
    blob = write_layer(list(trees), target)
    assert blob == Blob(LAYER, f"sha256:{hashlib.sha256(target.getvalue()).hexdigest()}", len(target.getvalue()))
    target.seek(0)
    with tarfile.open(fileobj=target) as archive:
        members = {member.name: member for member in archive.getmembers()}
        texts = {name: archive.extractfile(name).read().decode() for name, each in members.items() if each.isfile()}  # type: ignore[union-attr]  # regular files
    return blob, members, texts


def test_equal_trees_give_equal_digests_whatever_their_dates_and_order(tmp_path: Path) -> None:
    names = ["lib/b.py", "lib/a.py", "bin/tool", "z"]
    one = _tree(tmp_path / "one", names)
    two = _tree(tmp_path / "two", names[::-1])
    os.utime(two / "z", (1, 1))
    (one / "lib/a.py").chmod(0o600)
    assert _written(Tree(source=one, prefix="opt/venv"))[0] == _written(Tree(source=two, prefix="opt/venv"))[0]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda root: (root / "a").write_text("other"), False),
        (lambda root: (root / "a").chmod(0o755), False),
        (lambda root: (root / "a").rename(root / "b"), False),
        (lambda root: (root / "a").chmod(0o640), True),
        (lambda root: os.utime(root / "a", (5, 5)), True),
    ],
    ids=["content", "executable", "name", "other bits of the mode", "date"],
)
def test_the_digest_says_what_matters(tmp_path: Path, change: object, same: bool) -> None:
    root = _tree(tmp_path, ["a"])
    before = _written(Tree(source=root))[0].digest
    change(root)  # type: ignore[operator]  # a table of plain functions
    assert (_written(Tree(source=root))[0].digest == before) is same


def test_everything_belongs_to_root_has_one_date_and_can_be_read(tmp_path: Path) -> None:
    root = _tree(tmp_path, ["private/model.safetensors", "run"])
    (root / "private/model.safetensors").chmod(0o600)
    (root / "private").chmod(0o700)
    (root / "run").chmod(0o4711)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    members = _written(Tree(source=root))[1]
    assert {name: member.mode for name, member in members.items()} == {
        "private": 0o755,
        "private/model.safetensors": 0o644,
        "run": 0o755,
        "tmp": 0o1777,
    }
    assert {(each.uid, each.gid, each.uname, each.mtime) for each in members.values()} == {(0, 0, "", EPOCH_SECONDS)}


def test_prefix_folders_come_first_and_once(tmp_path: Path) -> None:
    tree = Tree(source=_tree(tmp_path, ["lib/x"]), prefix="opt/venv")
    assert list(_written(tree)[1]) == ["opt", "opt/venv", "opt/venv/lib", "opt/venv/lib/x"]


def test_excluded_paths_are_left_out_with_all_below(tmp_path: Path) -> None:
    root = _tree(tmp_path, ["var/cache/apt/x", "var/lib/y", "a.dist-info/direct_url.json", "a.dist-info/RECORD"])
    tree = Tree(source=root, exclude=("var/cache/*", "*/direct_url.json"))
    assert set(_written(tree)[1]) == {"var", "var/cache", "var/lib", "var/lib/y", "a.dist-info", "a.dist-info/RECORD"}


def test_build_paths_are_rewritten_in_links_and_named_files_only(tmp_path: Path) -> None:
    root = _tree(tmp_path, ["bin/x", "pyvenv.cfg", "data"])
    for name in ("pyvenv.cfg", "data"):
        (root / name).write_text("home = /build/rootfs/usr/bin\n")
    (root / "bin/python").symlink_to("/build/rootfs/usr/bin/python3.11")
    tree = Tree(source=root, rewrite=(("/build/rootfs", ""),), rewrite_in=("pyvenv.cfg",))
    _, members, texts = _written(tree)
    assert members["bin/python"].linkname == "/usr/bin/python3.11"
    del texts["bin/x"]
    assert texts == {"pyvenv.cfg": "home = /usr/bin\n", "data": "home = /build/rootfs/usr/bin\n"}


def test_pipes_and_devices_are_not_packed(tmp_path: Path) -> None:
    root = _tree(tmp_path, ["a"])
    os.mkfifo(root / "pipe")
    assert set(_written(Tree(source=root))[1]) == {"a"}
