"""Opening a source wherever it lies. A location is one of

/videos/a.mp4                     a path
s3://bucket/a.mp4                 a URL of a bucket, through fsspec
tar:1536+48211:/videos/a.tar      48211 bytes from byte 1536 on of one of the above
"""

import errno
import hashlib
import importlib
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import fsspec

from data_engine.errors import SourceError, UnreadableSourceError

T = TypeVar("T")

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_TAR_MEMBER = re.compile(r"tar:(\d+)\+(\d+):(.+)", re.DOTALL)
# 32 MiB a file: a demuxer jumps between the index at the end, the sound and the pictures.
_CACHE: dict[str, Any] = {
    "block_size": 4 * 2**20,
    "cache_type": "blockcache",
    "cache_options": {"maxblocks": 8},
}
_HASH_BLOCK_BYTES = 2**20
_OF_THE_NAME = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL})
# What the packages of the buckets raise besides OSError. One that was never imported cannot be raised.
_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("gcsfs.retry", "HttpError"),
)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file on disk or in a bucket."""

    location: str
    size_bytes: int
    version: str


def is_url(location: str) -> bool:
    return _URL.match(location) is not None


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path of the URL inside it.

    Raises:
        SourceError: the package of this kind of URL is not installed.
        UnreadableSourceError: we open no such URLs.
    """
    scheme = url.split("://", maxsplit=1)[0].lower()
    package = _PACKAGES.get(scheme)
    if package is None:
        known = ", ".join(f"{name}://" for name in _PACKAGES)
        raise UnreadableSourceError("unsupported_url", f"{scheme}:// is none of {known}")
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise SourceError(
            f"{scheme}:// needs the package {package}, which is not installed; "
            "pip install 'stiv[cloud]'"
        ) from error
    # A chain such as `s3://a::file:///etc` would let a manifest pick any of fsspec's file systems.
    path = url.split("://", maxsplit=1)[1]
    return fsspec.filesystem(scheme), path


def tar_member(tar: str, offset: int, size_bytes: int) -> str:
    """The location of a file inside a tar."""
    return f"tar:{offset}+{size_bytes}:{tar}"


def is_remote(location: str) -> bool:
    """Whether it lies in a bucket, itself or the tar that holds it."""
    member = _TAR_MEMBER.fullmatch(location)
    return is_url(location if member is None else member[3])


def local_path(location: str) -> Path | None:
    """The path of a file that is an ordinary one, else None."""
    return None if is_url(location) or _TAR_MEMBER.fullmatch(location) else Path(location)


def stat_file(location: str) -> StoredFile:
    """Size and version of a path or URL.

    Raises:
        SourceError: the package of this kind of URL is not installed.
        UnreadableSourceError: it is missing, not a file, or out of reach.
    """
    if not is_url(location):
        try:
            status = Path(location).stat()
        except (OSError, ValueError) as error:
            raise UnreadableSourceError(*_reason(error)) from error
        # Once real, two links to one file are seen to be one.
        location = os.path.realpath(location)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableSourceError("not_a_file", "neither a file nor a link to one")
        return StoredFile(location, status.st_size, str(status.st_mtime_ns))
    files, path = filesystem(location)
    info = reach(lambda: files.info(path))
    if info["type"] != "file":
        raise UnreadableSourceError("not_a_file", f"it is a {info['type']}")
    return stored_file(location, info)


def stored_file(location: str, info: dict[str, Any]) -> StoredFile:
    """From what fsspec tells of a file."""
    names = ("ETag", "etag", "LastModified", "updated", "mtime")
    version = next((str(info[name]) for name in names if info.get(name) is not None), "")
    return StoredFile(location, int(info["size"]), version)


def reach(ask: Callable[[], T]) -> T:
    """The answer of a bucket.

    Raises:
        UnreadableSourceError: it has none, or says no.
    """
    try:
        return ask()
    except _remote_errors() as error:
        raise UnreadableSourceError(*_reason(error)) from error


class SourceReader(io.RawIOBase):
    """A stretch of a file that lies in a bucket or inside a tar, read in pieces.

    FFmpeg takes a failed read for the end of the file, so `failure` remembers it; later reads find nothing.
    """

    def __init__(self, file: IO[bytes], start: int, size_bytes: int) -> None:
        super().__init__()
        self._file = file
        self._start = start
        self._size_bytes = size_bytes
        self._position = 0
        self.failure: UnreadableSourceError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}
        self._position = max(0, base[whence] + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._size_bytes - self._position))
        if wanted == 0 or self.failure is not None:
            return 0
        data = self._read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _read(self, size_bytes: int) -> bytes:
        try:
            self._file.seek(self._start + self._position)
            return self._file.read(size_bytes)
        except _remote_errors() as error:
            self.failure = UnreadableSourceError(*_reason(error))
            raise self.failure from error


@contextmanager
def open_source(location: str) -> Generator[str | SourceReader]:
    """What PyAV opens: the path of an ordinary file, else something it can read and seek in.

    Nothing is extracted, and no more than a few megabytes are held in memory.

    Raises:
        SourceError: the package of this kind of URL is not installed.
        UnreadableSourceError: it is missing, not a file, or out of reach. Also on leaving, where a read failed.
    """
    if local_path(location) is not None:
        stat_file(location)
        yield location
        return
    with open_bytes(location) as reader:
        try:
            yield reader
        finally:
            if reader.failure is not None:
                raise reader.failure


@contextmanager
def open_bytes(location: str) -> Generator[SourceReader]:
    """The bytes of any location.

    Raises:
        SourceError: the package of this kind of URL is not installed.
        UnreadableSourceError: it is missing, not a file, or out of reach.
    """
    member = _TAR_MEMBER.fullmatch(location)
    stored = stat_file(location if member is None else member[3])
    start, size_bytes = (
        (0, stored.size_bytes) if member is None else (int(member[1]), int(member[2]))
    )
    if start + size_bytes > stored.size_bytes:
        raise UnreadableSourceError(
            "truncated",
            f"it ends at byte {start + size_bytes} of a tar of {stored.size_bytes} bytes",
        )
    with (
        reach(lambda: _open(stored.location)) as file,
        SourceReader(file, start, size_bytes) as reader,
    ):
        yield reader


def content_id(location: str) -> str:
    """A hash of the bytes of a source: the same content under two names is one source.

    Raises:
        UnreadableSourceError: it is missing, not a file, or out of reach.
    """
    digest = hashlib.sha256()
    with open_bytes(location) as reader:
        while block := reader.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()[:16]


def _open(location: str) -> IO[bytes]:
    if not is_url(location):
        return Path(location).open("rb")
    files, path = filesystem(location)
    return cast("IO[bytes]", files.open(path, "rb", **_CACHE))


def _remote_errors() -> tuple[type[Exception], ...]:
    loaded = ((sys.modules.get(module), name) for module, name in _ERRORS)
    return (OSError, *(getattr(module, name) for module, name in loaded if module is not None))


def _reason(error: Exception) -> tuple[str, str]:
    """`reason` and `detail` of an error; the detail names no path of this machine."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "missing", "no such file"
    if isinstance(error, PermissionError):
        return "not_permitted", "permission to read it was denied"
    if isinstance(error, ValueError) or getattr(error, "errno", None) in _OF_THE_NAME:
        return "bad_name", getattr(error, "strerror", None) or str(error)
    if isinstance(error, OSError) and error.strerror:
        return "unreachable", error.strerror
    return "unreachable", f"{type(error).__name__}: {error}"
