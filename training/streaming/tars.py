"""The samples of a WebDataset tar, from its headers. Nothing is extracted, and nothing in it is trusted."""

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, cast

from data_engine.schema import ShardMember
from training.errors import DataError

MAX_MEMBER_BYTES = 2**30
"""A single file of a shard larger than this is taken for a broken or hostile index, not for a clip."""
_MAX_HEADER_BYTES = 2**20
"""Of one read while headers are parsed: an extended header may claim any size for itself."""
_PICKLES = frozenset({"pkl", "pickle", "pt", "pth", "pyd", "joblib"})


def list_samples(file: IO[bytes], name: str) -> dict[str, dict[str, ShardMember]]:
    """Key -> extension -> place, in the order of the tar. `name` is used in errors.

    As in WebDataset, the key is what comes before the first dot of the file name, with its folder.

    Raises:
        DataError: the tar breaks off, or holds what has no place in a data set: links, devices, paths that
            climb out, a name twice, members of over 1 GiB, pickles.
    """
    samples: dict[str, dict[str, ShardMember]] = {}
    try:
        for member in _headers(file, name):
            if member.isdir():
                continue
            key, extension = _split(_checked(member, name))
            members = samples.setdefault(key, {})
            if extension in members:
                raise DataError(f"{name} holds {member.name!r} twice; {_REFUSED}")
            members[extension] = ShardMember(offset=member.offset_data, size_bytes=member.size)
    except tarfile.TarError as error:
        raise DataError(f"{name} is not a readable tar ({error}); copy it again") from error
    return samples


_REFUSED = "no data set needs that, so it is refused; write the shard anew"


def _headers(file: IO[bytes], name: str) -> Iterator[tarfile.TarInfo]:
    bounded = cast("IO[bytes]", _BoundedFile(file, name))
    # A header that is damaged in the middle would otherwise pass for the end of the tar.
    with tarfile.open(fileobj=bounded, mode="r:", errorlevel=2) as tar:
        end = 0
        for member in tar:
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            yield member
    size_bytes = file.seek(0, 2)
    file.seek(min(end, size_bytes))
    if size_bytes < end or file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise DataError(f"{name} breaks off or is damaged after byte {end}; copy it again")


def _checked(member: tarfile.TarInfo, name: str) -> PurePosixPath:
    path = PurePosixPath(member.name)
    found = None
    if member.issym() or member.islnk():
        found = "a link"
    elif not member.isreg() or member.sparse is not None:
        found = "no plain file"
    elif path.is_absolute() or ".." in path.parts or "\0" in member.name:
        found = "a path that leads out of the data set"
    elif member.size > MAX_MEMBER_BYTES:
        found = f"{member.size} bytes, more than {MAX_MEMBER_BYTES}"
    elif _PICKLES & set(path.name.lower().split(".")[1:]):
        found = "a pickle, which would run code when read"
    if found is not None:
        raise DataError(f"{name}: member {member.name!r} is {found}; {_REFUSED}")
    return path


def _split(path: PurePosixPath) -> tuple[str, str]:
    stem, _, extension = path.name.partition(".")
    return str(path.with_name(stem)) if stem else str(path), extension.lower()


class _BoundedFile:
    """A file of which no single read is large."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise DataError(f"{self._name} has a header of {size} bytes; {_REFUSED}")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
