import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito_oci.errors import UnsafeArchive
from kaito_oci.tar import FILE, FOLDER, HARD_LINK, SYMLINK, Reader

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


class Dribble:
    """A source that returns fewer bytes than asked for, as sockets do."""

    def __init__(self, content: bytes, step: int) -> None:
        self._source = io.BytesIO(content)
        self._step = step

    def read(self, size: int) -> bytes:
        return self._source.read(min(size, self._step))


def archive(fill: Callable[[tarfile.TarFile], None], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        fill(tar)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    tar.addfile(info, io.BytesIO(content))


def contents(source: bytes, step: int = 1 << 20) -> list[tuple[str, str, bytes, str]]:
    reader = Reader(Dribble(source, step))
    return [(entry.name, entry.kind, b"".join(reader.chunks()), entry.link) for entry in reader]


names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=60)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


@given(
    files=st.dictionaries(paths, st.binary(max_size=2000), max_size=5),
    form=st.sampled_from(FORMATS),
    step=st.integers(1, 700),
)
def test_reads_what_the_standard_library_writes(files: dict[str, bytes], form: int, step: int) -> None:
    files = {name: content for name, content in files.items() if len(name) <= 100 or form != tarfile.USTAR_FORMAT}

    def fill(tar: tarfile.TarFile) -> None:
        for name, content in files.items():
            add(tar, name, content)

    assert contents(archive(fill, form), step) == [(name, FILE, content, "") for name, content in files.items()]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_links_and_large_numbers(form: int) -> None:
    long, deep = "n" * 300, "d/" * 120 + "ü"

    def fill(tar: tarfile.TarFile) -> None:
        add(tar, long, b"x")
        add(tar, deep, b"", tarfile.SYMTYPE, long)
        add(tar, "hard", b"", tarfile.LNKTYPE, "n" * 300)
        add(tar, "folder", b"", tarfile.DIRTYPE)

    assert contents(archive(fill, form)) == [
        (long, FILE, b"x", ""),
        (deep, SYMLINK, b"", long),
        ("hard", HARD_LINK, b"", long),
        ("folder/", FOLDER, b"", ""),
    ]


def test_an_entry_that_is_not_read_is_passed_over() -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "a", b"x" * 3000)
        add(tar, "b", b"y")

    whole = archive(fill)
    assert [entry.name for entry in Reader(io.BytesIO(whole))] == ["a", "b"]


def header(**changes: bytes) -> bytearray:
    whole = bytearray(archive(lambda tar: add(tar, "a", b"x" * 600)))
    for field, value in changes.items():
        start = {"size": 124, "checksum": 148, "kind": 156}[field]
        whole[start : start + len(value)] = value
    return whole


def resummed(whole: bytearray) -> bytes:
    whole[148:156] = b" " * 8
    whole[148:156] = f"{sum(whole[:512]):06o}\0 ".encode()
    return bytes(whole)


@pytest.mark.parametrize(
    "content",
    [
        bytes(header(checksum=b"0000000\0")),
        bytes(header())[:700],
        bytes(header())[:300],
        b"\x7fELF" + bytes(600),
        resummed(header(size=b"zzzzzzzzzzz\0")),
        resummed(header(size=b"\xff" * 12)),
        resummed(header(size=b"77777777777\0", kind=b"x")),  # an 8 GiB header extension
        resummed(header(kind=b"L", size=b"77777777777\0")),
        resummed(header(kind=b"x")),
    ],
    ids=[
        "checksum",
        "cut-in-file",
        "cut-in-header",
        "no-tar",
        "no-number",
        "negative",
        "pax-bomb",
        "long-bomb",
        "bad-pax",
    ],
)
def test_damaged_archives_are_refused_with_bounded_memory(content: bytes) -> None:
    with pytest.raises(UnsafeArchive):
        contents(content)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_name_of_megabytes_is_not_read_into_memory(form: int) -> None:
    source = io.BytesIO(archive(lambda tar: add(tar, "n" * (3 << 20)), form))
    with pytest.raises(UnsafeArchive, match="claims"):
        list(Reader(source))
    assert source.tell() <= 1024


@given(st.binary(max_size=1500))
def test_junk_never_does_more_than_be_refused(junk: bytes) -> None:
    try:
        contents(junk)
    except UnsafeArchive:
        return
    assert not junk[:512].strip(b"\0")  # only an end mark, or nothing at all, passes for an archive
