"""Member lists of tars that nobody should trust."""

import io
import tarfile
from collections.abc import Callable

import pytest

from training.errors import DataError
from training.streaming.tars import MAX_MEMBER_BYTES, list_samples

Member = tuple[str, bytes]


def tar_of(
    members: list[Member], change: Callable[[tarfile.TarInfo], None] = lambda _: None
) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            change(info)
            tar.addfile(info, io.BytesIO(data))
    buffer.seek(0)
    return buffer


def test_members_are_grouped_by_what_comes_before_the_first_dot() -> None:
    tar = tar_of(
        [("./a/x.jpg", b"1"), ("./a/x.seg.png", b"22"), ("b/x.JPG", b"333"), ("README", b"")]
    )
    samples = list_samples(tar, "t.tar")
    assert {key: sorted(members) for key, members in samples.items()} == {
        "a/x": ["jpg", "seg.png"],
        "b/x": ["jpg"],
        "README": [""],
    }
    place = samples["b/x"]["jpg"]
    tar.seek(place.offset)
    assert tar.read(place.size_bytes) == b"333"


@pytest.mark.parametrize("name", ["/etc/passwd.txt", "../up.mp4", "a/../../up.mp4"])
def test_paths_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="leads out of the data set"):
        list_samples(tar_of([(name, b"x")]), "t.tar")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.CHRTYPE, "is no plain file"),
        (tarfile.BLKTYPE, "is no plain file"),
        (tarfile.FIFOTYPE, "is no plain file"),
    ],
)
def test_links_and_devices_are_refused(kind: bytes, said: str) -> None:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    with pytest.raises(DataError, match=said):
        list_samples(tar_of([("a.mp4", b"")], change), "t.tar")


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "a.text.PKL", "a.pt", "a.pth"])
def test_pickles_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="would run code when read"):
        list_samples(tar_of([(name, b"x")]), "t.tar")


def test_a_name_that_comes_twice_is_refused() -> None:
    with pytest.raises(DataError, match=r"holds 'a.mp4' twice"):
        list_samples(tar_of([("a.mp4", b"1"), ("a.mp4", b"2")]), "t.tar")


def header_of(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo("a.mp4")
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def test_an_oversized_member_is_refused() -> None:
    tar = io.BytesIO(header_of(MAX_MEMBER_BYTES + 1) + bytes(10240))
    with pytest.raises(DataError, match=f"{MAX_MEMBER_BYTES + 1} bytes, more than"):
        list_samples(tar, "t.tar")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_gigabytes_is_not_read(kind: bytes) -> None:
    tar = io.BytesIO(header_of(2**33, kind) + bytes(10240))
    with pytest.raises(DataError, match="has a header of 8589934592 bytes"):
        list_samples(tar, "t.tar")


def test_a_tar_that_breaks_off_is_refused() -> None:
    whole = tar_of([("a.mp4", bytes(3000)), ("b.mp4", bytes(3000))]).getvalue()
    for end in (700, 2000, 4500, 6000):
        with pytest.raises(DataError, match=r"breaks off|not a readable tar"):
            list_samples(io.BytesIO(whole[:end]), "t.tar")


def test_a_damaged_header_is_not_the_end() -> None:
    tar = bytearray(tar_of([("a.mp4", bytes(1000)), ("b.mp4", bytes(1000))]).getvalue())
    tar[512 + 1024 + 100] ^= 0xFF
    with pytest.raises(DataError, match=r"damaged after byte 1536|not a readable tar"):
        list_samples(io.BytesIO(bytes(tar)), "t.tar")


def test_what_is_no_tar_is_refused() -> None:
    with pytest.raises(DataError, match="not a readable tar"):
        list_samples(io.BytesIO(b"not a tar" * 200), "t.tar")
