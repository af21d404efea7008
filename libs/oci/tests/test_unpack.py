import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from kaito_oci import Limits
from kaito_oci.decompress import Bounded, opened
from kaito_oci.errors import NotFound, OciError, TooLarge, UnsafeArchive
from kaito_oci.operation import CURRENT, Operation
from kaito_oci.unpack import Unpacker

Item = tuple[str, object]
LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.fixture(autouse=True)
def operation() -> Iterator[None]:
    token = CURRENT.set(Operation())
    yield
    CURRENT.reset(token)


def layer(*items: tuple[object, ...]) -> bytes:
    """(name, bytes), (name, None) for a folder, (name, type, link target), each with an optional mode at the end."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for item in items:
            info = tarfile.TarInfo(str(item[0]))
            content = b""
            if isinstance(item[1], bytes) and len(item) >= 3 and isinstance(item[2], str):
                info.type, info.linkname = item[1], item[2]
            elif item[1] is None:
                info.type = tarfile.DIRTYPE
            else:
                assert isinstance(item[1], bytes)
                content = item[1]
                info.size = len(content)
            info.mode = item[-1] if isinstance(item[-1], int) else 0o644
            info.uid = info.gid = 12345
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def unpack(root: Path, *layers: bytes, path: str = "", limits: Limits | None = None) -> dict[str, bytes]:
    root.mkdir(exist_ok=True)
    unpacker = Unpacker(root, path, limits or Limits())
    for one in layers:
        unpacker.apply(io.BytesIO(one))
    unpacker.finish()
    return tree(root)


def tree(root: Path) -> dict[str, bytes]:
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if not file.is_dir()}


@pytest.mark.parametrize(
    ("layers", "path", "expected"),
    [
        ([layer(("data/a", b"1"), ("data/s/b", b"2"), ("etc/passwd", b"x"))], "/data", {"a": b"1", "s/b": b"2"}),
        ([layer(("./data/a", b"1"))], "data/", {"a": b"1"}),
        ([layer(("/data/a", b"1"))], "/data", {"a": b"1"}),
        ([layer(("a", b"1")), layer(("a", b"2"))], "", {"a": b"2"}),
        ([layer(("a", b"1"), ("a", b"2"))], "", {"a": b"2"}),
        # whiteouts
        ([layer(("d/a", b"1"), ("d/b", b"2")), layer(("d/.wh.a", b""))], "", {"d/b": b"2"}),
        ([layer(("d/a", b"1")), layer(("d/.wh..wh..opq", b""), ("d/c", b"3"))], "", {"d/c": b"3"}),
        ([layer(("d/a", b"1")), layer(("d/c", b"3"), ("d/.wh..wh..opq", b""))], "", {"d/c": b"3"}),
        ([layer(("d/a", b"1"), ("k", b"k")), layer((".wh.d", b""))], "", {"k": b"k"}),
        ([layer(("data/a", b"1")), layer((".wh.data", b""), ("data/b", b"2"))], "/data", {"b": b"2"}),
        ([layer(("x/data/a", b"1")), layer((".wh.x", b""), ("x/data/b", b"2"))], "/x/data", {"b": b"2"}),
        ([layer(("data/a", b"1")), layer((".wh..wh..opq", b""), ("data/b", b"2"))], "/data", {"b": b"2"}),
        ([layer(("a", b"1")), layer(("a", b"2"), (".wh.a", b""))], "", {"a": b"2"}),
        # a folder where a file was, and the reverse
        ([layer(("d", b"1")), layer(("d/x", b"2"))], "", {"d/x": b"2"}),
        ([layer(("d/x", b"1")), layer(("d", b"2"))], "", {"d": b"2"}),
        # links within the tree
        ([layer(("data/a", b"1"), ("data/b", HARD, "data/a"))], "/data", {"a": b"1", "b": b"1"}),
        ([layer(("data/a", b"1"), ("data/b", LINK, "a"))], "/data", {"a": b"1", "b": b"1"}),
        ([layer(("data/s/b", LINK, "../a"), ("data/a", b"1"))], "/data", {"a": b"1", "s/b": b"1"}),
        ([layer(("data/b", LINK, "/data/a"), ("data/a", b"1"))], "/data", {"a": b"1", "b": b"1"}),
        ([layer(("c", LINK, "b"), ("b", LINK, "a"), ("a", b"1"))], "", {"a": b"1", "b": b"1", "c": b"1"}),
        ([layer(("a", b"1"), ("b", HARD, "a")), layer(("a", b"2"))], "", {"a": b"2", "b": b"1"}),
        ([layer(("l", LINK, "a"), ("a", b"1")), layer(("l", b"own"))], "", {"a": b"1", "l": b"own"}),
        # what lies elsewhere does not matter
        ([layer(("bin", LINK, "usr/bin"), ("dev/null", tarfile.CHRTYPE, ""), ("data/a", b"1"))], "/data", {"a": b"1"}),
    ],
)
def test_layers_stack_up(tmp_path: Path, layers: list[bytes], path: str, expected: dict[str, bytes]) -> None:
    assert unpack(tmp_path / "root", *layers, path=path) == expected


@pytest.mark.parametrize(
    "items",
    [
        [("../escape", b"x")],
        [("data/../../escape", b"x")],
        [("a/b/../../../escape", b"x")],
        [("l", LINK, "/etc"), ("l/passwd", b"x")],
        [("l", LINK, "../.."), ("l/escape", b"x")],
        [("l", LINK, "/etc/passwd")],
        [("l", LINK, "../../../../etc/passwd")],
        [("l", HARD, "/etc/passwd")],
        [("l", HARD, "../escape")],
        [("l", LINK, "l")],
        [("a", LINK, "b"), ("b", LINK, "a")],
        [("d", None), ("l", LINK, "d")],
        [("dev", tarfile.CHRTYPE, "")],
        [("dev", tarfile.BLKTYPE, "")],
        [("fifo", tarfile.FIFOTYPE, "")],
        [("n" * 256, b"x")],
        [("d/" * 70 + "x", b"x")],
        [(".wh...", b"x")],
    ],
    ids=lambda items: str(items[0])[:40],
)
def test_hostile_layers_are_refused_and_nothing_leaves_the_root(
    tmp_path: Path, items: list[tuple[object, ...]]
) -> None:
    (tmp_path / "victim").write_bytes(b"untouched")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UnsafeArchive):
        unpack(tmp_path / "root", layer(("ok", b"1"), *items))
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "root"])
    assert not any(file.is_symlink() for file in (tmp_path / "root").rglob("*"))


def test_a_hard_link_out_of_the_wanted_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="outside"):
        unpack(tmp_path / "root", layer(("etc/secret", b"s"), ("data/a", HARD, "etc/secret")), path="/data")


def test_modes_become_plain_whatever_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        unpack_modes(tmp_path)
    finally:
        os.umask(mask)


def unpack_modes(tmp_path: Path) -> None:
    unpack(
        tmp_path / "root", layer(("d", None, 0o777), ("d/s", b"x", 0o4755), ("d/p", b"x", 0o600), ("d/w", b"x", 0o666))
    )
    modes = {file.name: file.stat().st_mode & 0o7777 for file in (tmp_path / "root").rglob("*")}
    assert modes == {"d": 0o755, "s": 0o755, "p": 0o644, "w": 0o644}
    assert {file.stat().st_uid for file in (tmp_path / "root").rglob("*")} == {os.getuid()}


def test_nothing_is_written_behind_a_link_of_an_earlier_layer(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="behind a link"):
        unpack(tmp_path / "root", layer(("l", LINK, "d"), ("d/x", b"1")), layer(("l/y", b"2")))


def test_the_path_must_be_in_the_image(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="/data"):
        unpack(tmp_path / "root", layer(("other/a", b"1")), path="/data")


@pytest.mark.parametrize(
    ("limits", "error"),
    [(Limits(max_bytes=2500), TooLarge), (Limits(max_files=2), TooLarge), (Limits(max_bytes=3000, max_files=3), None)],
)
def test_caps(tmp_path: Path, limits: Limits, error: type[OciError] | None) -> None:
    whole = layer(("a", b"x" * 1000), ("b", b"x" * 1000), ("c", b"x" * 1000))
    if error is None:
        assert len(unpack(tmp_path / "root", whole, limits=limits)) == 3
        return
    with pytest.raises(error):
        unpack(tmp_path / "root", whole, limits=limits)


PLAIN = layer(("a", b"content " * 1000))


@pytest.mark.parametrize(
    ("packed", "compression"),
    [
        (PLAIN, ""),
        (gzip.compress(PLAIN), "gzip"),
        (gzip.compress(PLAIN[:700]) + gzip.compress(PLAIN[700:]), "gzip"),
        (gzip.compress(PLAIN) + bytes(512), "gzip"),
        (zstandard.compress(PLAIN), "zstd"),
        (zstandard.compress(PLAIN[:700]) + zstandard.compress(PLAIN[700:]), "zstd"),
    ],
    ids=["plain", "gzip", "two-members", "padded", "zstd", "two-frames"],
)
def test_compressions(packed: bytes, compression: str) -> None:
    source, found = opened(io.BytesIO(packed), compression), bytearray()
    while chunk := source.read(333):
        assert len(chunk) <= 333
        found += chunk
    assert bytes(found) == PLAIN


def huge_window() -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(PLAIN) + stream.flush()


@pytest.mark.parametrize(
    ("packed", "compression"),
    [
        (b"no gzip", "gzip"),
        (gzip.compress(PLAIN)[:-20], "gzip"),
        (b"no zstd!", "zstd"),
        (huge_window(), "zstd"),
    ],
    ids=["junk", "cut", "junk-zstd", "huge-window"],
)
def test_damaged_compression_is_refused(packed: bytes, compression: str) -> None:
    source = opened(io.BytesIO(packed), compression)
    reads = iter(lambda: source.read(1000), b"")
    with pytest.raises(UnsafeArchive):
        list(reads)


@pytest.mark.parametrize(
    ("packed", "compression"), [(gzip.compress(bytes(10**7)), "gzip"), (zstandard.compress(bytes(10**7)), "zstd")]
)
def test_a_bomb_is_stopped_at_the_ratio(packed: bytes, compression: str) -> None:
    limits = Limits(max_ratio=100, ratio_floor=1000)
    source = Bounded(opened(io.BytesIO(packed), compression), len(packed), limits)
    reads, count = iter(lambda: source.read(50_000), b""), 0

    def drain() -> None:
        nonlocal count
        for chunk in reads:
            count += len(chunk)

    with pytest.raises(UnsafeArchive, match="bomb"):
        drain()
    assert count <= max(len(packed) * 100, 1000)
