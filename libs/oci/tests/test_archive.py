import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito_oci import Member, TarBlob, media_types
from kaito_oci.archive import TarReader, layout
from kaito_oci.errors import FileChanged

names = st.lists(st.sampled_from(["a", "b", "data", "x" * 60]), min_size=1, max_size=3).map("/".join)
files = st.dictionaries(names, st.binary(max_size=1500), min_size=1, max_size=5).filter(
    lambda found: not any(other.startswith(f"{name}/") for name in found for other in found)
)


def packed(members: list[Member], mtime: int = 0, step: int = 1 << 20) -> bytes:
    reader, whole = TarReader(layout(members, mtime)), bytearray()
    while block := reader.read(step):
        whole += block
    return bytes(whole)


@given(files=files, seed=st.randoms(use_true_random=False), step=st.integers(1, 900))
def test_order_and_reading_do_not_change_a_byte(files: dict[str, bytes], seed: object, step: int) -> None:
    members = [Member(name, content) for name, content in files.items()]
    shuffled = list(members)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    assert packed(members) == packed(shuffled, step=step)


@given(files=files, position=st.integers(0, 8000))
def test_reading_can_go_on_anywhere(files: dict[str, bytes], position: int) -> None:
    members = [Member(name, content) for name, content in files.items()]
    whole, reader = packed(members), TarReader(layout(members, 0))
    reader.seek(position)
    found = bytearray()
    while block := reader.read(777):
        found += block
    assert bytes(found) == whole[position:]


@given(files)
def test_the_standard_library_reads_it_back(files: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed([Member(name, content) for name, content in files.items()]))) as tar:
        found = {}
        for info in tar:
            assert (info.uid, info.gid, info.uname, info.gname, info.mtime) == (0, 0, "", "", 0)
            assert info.mode == (0o755 if info.isdir() else 0o644)
            if info.isfile():
                extracted = tar.extractfile(info)
                assert extracted is not None
                found[info.name] = extracted.read()
    assert found == files


def test_owner_mode_time_and_place_of_the_files_do_not_matter(tmp_path: Path) -> None:
    digests = set()
    for position, mode in enumerate((0o600, 0o644, 0o444)):
        folder = tmp_path / str(position)
        folder.mkdir()
        file = folder / "weights"
        file.write_bytes(b"w" * 5000)
        file.chmod(mode)
        os.utime(file, (position * 1000, position * 1000))
        blob = TarBlob([Member("data/weights", file), Member("data/config", b"{}")], media_types.OCI_LAYER_TAR)
        digests.add(blob.descriptor.digest)
    # The literal keeps the bytes the same from release to release, and from one Python version to the next.
    assert digests == {"sha256:cbce74cdd100fd08007a21b6ef1927d350dfc2a976ab9fdce3b658ca8ad27cf5"}


def test_files_of_8_gib_and_more_get_a_pax_size(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(9 * 2**30)
    head = layout([Member("huge", huge)], 0)[0]
    assert isinstance(head, bytes)
    with tarfile.open(fileobj=io.BytesIO(head), mode="r|") as tar:
        first = tar.next()
        assert first is not None
        assert (first.name, first.size) == ("huge", 9 * 2**30)


@pytest.mark.parametrize("name", ["/a", "../a", "a/../b", "a//b", "", "n" * 101, ("d" * 156) + "/a", "a/"])
def test_names_that_no_archive_should_have(name: str) -> None:
    with pytest.raises(ValueError, match=r"normal form|too long"):
        layout([Member(name, b"")], 0)


def test_the_same_name_twice() -> None:
    with pytest.raises(ValueError, match="same name"):
        layout([Member("a", b""), Member("a", b"1")], 0)


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x" * 3000)
    reader = TarReader(layout([Member("f", file)], 0))
    file.write_bytes(b"x" * 100)
    reads = iter(lambda: reader.read(64), b"")
    with pytest.raises(FileChanged):
        list(reads)
