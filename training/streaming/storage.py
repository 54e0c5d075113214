"""Stretches of shards, on disk or in a bucket, by position."""

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import fsspec
import fsspec.asyn

from training.errors import DataError

logger = logging.getLogger(__name__)

_MAX_OPEN_FILES = 128
_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.2
REMOTE_TIMEOUT_S = 60.0
"""Of one read from a bucket. A local disk that hangs is seen by the time-out of the loader."""


def is_url(location: str) -> bool:
    return "://" in location


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it.

    Raises:
        DataError: its package is not installed, or the URL chains several file systems.
    """
    if "::" in url:
        raise DataError(f"{url} chains file systems; give the URL of the shards themselves")
    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot open {url}: {error}") from error
    return files, str(path)


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """A file on disk, by rename. Workers may write it at the same time: the last one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    temporary.replace(path)


def open_shard(location: str) -> IO[bytes]:
    """A shard for reading its headers."""
    if not is_url(location):
        return Path(location).open("rb")
    files, path = file_system(location)
    # Headers lie far apart: read-ahead would fetch the members as well.
    return cast("IO[bytes]", files.open(path, "rb", block_size=2**16, cache_type="readahead"))


class RangeReader:
    """Reads by position. Keeps files open, so one belongs to one thread of one process."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, location: str, offset: int, size_bytes: int) -> bytes:
        """Exactly so many bytes; a read that fails is tried three times.

        Raises:
            DataError: the shard is gone, out of reach or too short.
        """
        data = bytearray(size_bytes)
        self.read_into(location, offset, [memoryview(data)])
        return bytes(data)

    def read_into(self, location: str, offset: int, buffers: Sequence[memoryview]) -> None:
        """As `read`, into buffers of bytes that somebody has already, one after the other.

        Raises:
            DataError: as `read`.
        """
        for attempt in range(_ATTEMPTS):
            try:
                num_read = self._read_once(location, offset, buffers)
                break
            except OSError as error:
                self._forget(location)
                if attempt + 1 == _ATTEMPTS or isinstance(error, FileNotFoundError):
                    raise DataError(f"cannot read {location}: {error}") from error
                logger.warning("reading %s again: %s", location, error)
                time.sleep(_FIRST_PAUSE_S * 2**attempt)
        else:
            raise AssertionError("the last attempt returns or raises")
        if num_read != sum(map(len, buffers)):
            raise DataError(f"{location} ends inside a member at {offset}; copy the shard again")

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _read_once(self, location: str, offset: int, buffers: Sequence[memoryview]) -> int:
        if not is_url(location):
            return os.preadv(self._descriptor(location), buffers, offset)
        files, path = file_system(location)
        limits = {}
        if isinstance(files, fsspec.asyn.AsyncFileSystem) and not files.asynchronous:
            limits["timeout"] = REMOTE_TIMEOUT_S
        end = offset + sum(map(len, buffers))
        data = cast("bytes", files.cat_file(path, start=offset, end=end, **limits))
        start = 0
        for buffer in buffers:
            part = data[start : start + len(buffer)]
            buffer[: len(part)] = part
            start += len(part)
        return len(data)

    def _descriptor(self, path: str) -> int:
        descriptor = self._open.pop(path, None)
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY)
        self._open[path] = descriptor
        if len(self._open) > _MAX_OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def _forget(self, path: str) -> None:
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)
