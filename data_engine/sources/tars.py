"""Videos inside WebDataset tars: found by reading the headers only, never extracted."""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO

from data_engine.errors import UnreadableSourceError
from data_engine.schema import QuarantinedSource
from data_engine.sources import (
    VIDEO_SUFFIXES,
    SourceFile,
    SourceListing,
    quarantined,
    storable_name,
)
from data_engine.sources.manifests import Described, describe
from data_engine.sources.storage import StoredFile, open_bytes, tar_member

_MAX_SIDECAR_BYTES = 2**20


def list_tar(name: str, tar: StoredFile) -> SourceListing:
    """The videos of a tar, each with the texts of the `.txt` and `.json` members of the same name.

    A tar that breaks off gives what comes before. A member is called `<name of the tar>/<its own name>`.

    Raises:
        SourceError: the package of this kind of URL is not installed.
    """
    videos: dict[str, SourceFile] = {}
    sidecars: dict[str, list[Described]] = {}
    unusable: list[QuarantinedSource] = []
    try:
        with open_bytes(tar.location) as reader, io.BufferedReader(reader) as buffered:
            for member, text in _members(buffered):
                uri = f"{name}/{PurePosixPath(member.name)}"
                try:
                    if text is not None:
                        read = _sidecar(member.name, text)
                        sidecars.setdefault(_stem(uri), []).append(read)
                    elif uri in videos:
                        raise UnreadableSourceError("ambiguous_name", "the tar holds it twice")
                    else:
                        videos[uri] = _video(uri, tar, member)
                except UnreadableSourceError as error:
                    unusable.append(quarantined(uri, error))
    except tarfile.TarError as error:
        unusable.append(quarantined(name, UnreadableSourceError("unreadable_tar", str(error))))
    except UnreadableSourceError as error:
        unusable.append(quarantined(name, error))
    files = [_with_sidecars(file, sidecars.get(_stem(uri), ())) for uri, file in videos.items()]
    return SourceListing(files=files, unusable=unusable)


def _members(file: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Videos as they come, with None; sidecars with their bytes."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            suffix = PurePosixPath(member.name).suffix.lower()
            # A sparse member is not one stretch of bytes; a link holds none.
            if not member.isreg() or member.sparse is not None:
                continue
            if suffix in VIDEO_SUFFIXES:
                yield member, None
            elif suffix in {".txt", ".json"}:
                content = tar.extractfile(member)
                assert content is not None, "a regular member has content"
                yield member, content.read(_MAX_SIDECAR_BYTES + 1)


def _video(uri: str, tar: StoredFile, member: tarfile.TarInfo) -> SourceFile:
    return SourceFile(
        uri=storable_name(uri),
        location=tar_member(tar.location, member.offset_data, member.size),
        size_bytes=member.size,
        version=tar.version,
    )


def _with_sidecars(file: SourceFile, sidecars: Iterable[Described]) -> SourceFile:
    for sidecar in sidecars:
        file = sidecar.add_to(file)
    return file


def _stem(uri: str) -> str:
    return str(PurePosixPath(uri).with_suffix(""))


def _sidecar(member: str, data: bytes) -> Described:
    if len(data) > _MAX_SIDECAR_BYTES:
        raise UnreadableSourceError("bad_sidecar", f"it is over {_MAX_SIDECAR_BYTES} bytes")
    try:
        text = data.decode()
        if member.lower().endswith(".txt"):
            return describe({"caption": text})
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableSourceError("bad_sidecar", str(error)) from error
    if not isinstance(values, dict):
        found = type(values).__name__
        raise UnreadableSourceError("bad_sidecar", f"expected an object of fields, found {found}")
    return describe(values)
