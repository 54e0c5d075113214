"""From `--source` to everything that it names."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data_engine.errors import SourceError, UnreadableSourceError
from data_engine.schema import QuarantinedSource
from data_engine.sources import (
    ATTRIBUTIONS_NAME,
    TAR_SUFFIX,
    VIDEO_SUFFIXES,
    SourceFile,
    SourceListing,
    quarantined,
)
from data_engine.sources.finding import Found, find_files
from data_engine.sources.manifests import MANIFEST_SUFFIXES, list_manifest
from data_engine.sources.storage import StoredFile, is_url, stat_file
from data_engine.sources.tars import list_tar


def list_sources(source: str) -> SourceListing:
    """Every candidate below `source`, sorted by `uri`.

    A folder is searched recursively for videos and for tars of videos. A file or a glob is taken as it is, so
    that a wrong choice of the user lands in the quarantine rather than vanishing. A manifest is a single file.

    Raises:
        SourceError: nothing is there, or a manifest or bucket cannot be read.
    """
    try:
        found = find_files(source, frozenset({*VIDEO_SUFFIXES, TAR_SUFFIX}))
    except UnreadableSourceError as error:
        raise SourceError(f"--source {source}: {error}") from error
    names = list(found.files)
    if not found.is_folder and len(names) == 1 and _suffix(names[0]) in MANIFEST_SUFFIXES:
        listing = list_manifest(names[0], found.files[names[0]].location)
        return _merged(listing.files, listing.unusable)
    skipped = {suffix or "no suffix": count for suffix, count in sorted(found.skipped.items())}
    listing = replace(_list_found(found), skipped=skipped)
    if not listing.files and not listing.unusable:
        suffixes = ", ".join(sorted({*VIDEO_SUFFIXES, TAR_SUFFIX}))
        others = ", ".join(f"{count} x {suffix}" for suffix, count in listing.skipped.items())
        expected = (
            f"files ending in {suffixes}; found {others or 'nothing'}"
            if found.is_folder
            else "a file, a folder or a glob"
        )
        raise SourceError(f"--source {source} holds no videos; expected {expected}")
    return listing


def local_source(path: Path) -> SourceFile:
    """One file of this machine, by its own name.

    Raises:
        UnreadableSourceError: there is no such file.
    """
    stored = stat_file(str(path.absolute()))
    return _plain(path.name, stored)


def _list_found(found: Found) -> SourceListing:
    files: list[SourceFile] = []
    unusable: list[QuarantinedSource] = list(found.unusable)
    for name, stored in found.files.items():
        if _suffix(name) == TAR_SUFFIX:
            inside = list_tar(name, stored)
            files += inside.files
            unusable += inside.unusable
        else:
            files.append(_plain(name, stored))
    return _merged(files, unusable)


def _plain(name: str, stored: StoredFile) -> SourceFile:
    return SourceFile(
        uri=name,
        location=stored.location,
        size_bytes=stored.size_bytes,
        version=stored.version,
        attribution=None if is_url(stored.location) else _attribution(Path(stored.location)),
    )


def _merged(files: Iterable[SourceFile], unusable: list[QuarantinedSource]) -> SourceListing:
    """One entry for each file: the first of its names is kept, and the others with it."""
    refused = list(unusable)
    locations: dict[str, str] = {}
    merged: dict[str, SourceFile] = {}
    for file in sorted(files, key=lambda file: file.uri):
        if locations.setdefault(file.uri, file.location) != file.location:
            error = UnreadableSourceError("ambiguous_name", "another source has the same name")
            refused.append(quarantined(file.uri, error))
            continue
        first = merged.get(file.location)
        if first is not None:
            others = dict.fromkeys((*first.other_uris, file.uri))
            file = replace(
                first,
                other_uris=tuple(uri for uri in others if uri != first.uri),
                attribution=first.attribution or file.attribution,
                captions=tuple(dict.fromkeys((*first.captions, *file.captions))),
                metadata={**file.metadata, **first.metadata},
            )
        merged[file.location] = file
    # A name in the quarantine stands for no source that is used.
    refused = [
        replace(row, uri=f"{row.uri} (another)") if row.uri in locations else row for row in refused
    ]
    refused.sort(key=lambda row: (row.uri, row.reason))
    return SourceListing(files=list(merged.values()), unusable=refused)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _attribution(path: Path) -> str | None:
    listed = path.parent / ATTRIBUTIONS_NAME
    if not listed.is_file():
        return None
    try:
        attributions = json.loads(listed.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{listed} is not valid JSON ({error}); mend or remove it") from error
    if not isinstance(attributions, dict):
        raise SourceError(f"{listed} is no JSON object of file names; mend or remove it")
    credit = attributions.get(path.name)
    return None if credit is None else str(credit)
