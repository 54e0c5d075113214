"""Manifests: a table (CSV, JSONL or Parquet) with one source a row."""

import csv
import io
import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import IO, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.errors import SourceError, UnreadableSourceError
from data_engine.schema import QuarantinedSource
from data_engine.sources import SourceFile, SourceListing, quarantined, storable_name
from data_engine.sources.storage import is_url, open_bytes, stat_file

MANIFEST_SUFFIXES = frozenset({".csv", ".jsonl", ".parquet"})
_URI = "uri"
_TOO_MANY = "\0"
_NUM_ASKED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Described:
    """What a row or a sidecar says of a video."""

    attribution: str | None = None
    captions: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict[str, str])

    def add_to(self, file: SourceFile) -> SourceFile:
        """What is known already wins; captions are gathered."""
        return replace(
            file,
            attribution=file.attribution or self.attribution,
            captions=tuple(dict.fromkeys((*file.captions, *self.captions))),
            metadata={**self.metadata, **file.metadata},
        )


@dataclass(frozen=True, slots=True)
class _Row:
    place: str
    """Where the row stands: shown where it has no `uri`, or is broken."""
    values: Mapping[str, Any]
    problem: str | None = None

    @property
    def uri(self) -> str | None:
        value = self.values.get(_URI)
        if not isinstance(value, str) or not value.strip():
            return None
        uri = value.strip()
        return unquote(uri[len("file://") :]) if uri.lower().startswith("file://") else uri


def list_manifest(name: str, location: str) -> SourceListing:
    """The sources of a manifest, in its order. A row that names none is unusable, with the reason.

    `uri` is a path relative to the manifest, an absolute path, or a URL; `caption`, `captions` and
    `attribution` are optional; every further column is kept as text.

    Raises:
        SourceError: it cannot be read, or has no column `uri`.
    """
    rows = _read_rows(location, name)
    if not rows:
        raise SourceError(f"manifest {name} has no rows; expected one for each video")
    columns = {str(column) for row in rows for column in row.values}
    if _URI not in columns:
        found = ", ".join(sorted(columns)) or "none"
        raise SourceError(f"manifest {name} has no column {_URI!r}; its columns are: {found}")
    folder = location.rsplit("/", maxsplit=1)[0]
    outside = [path for row in rows if (path := _path_outside(row, folder)) is not None]
    # Rows of one machine's absolute paths are named below the folder that they share.
    shared = os.path.commonpath([posixpath.dirname(p) for p in outside]) if outside else folder

    def locate(row: _Row) -> SourceFile | QuarantinedSource:
        return _source(row, folder, shared)

    with ThreadPoolExecutor(_NUM_ASKED_AT_ONCE) as pool:
        listed = list(pool.map(locate, rows))
    return SourceListing(
        files=[row for row in listed if isinstance(row, SourceFile)],
        unusable=[row for row in listed if isinstance(row, QuarantinedSource)],
    )


def describe(values: Mapping[str, Any]) -> Described:
    """Captions, attribution and the rest as text, from the fields of a row or a sidecar."""
    captions = (*_captions(values.get("caption")), *_captions(values.get("captions")))
    attribution = values.get("attribution")
    known = {_URI, "caption", "captions", "attribution"}
    rest = {k: _text(v) for k, v in values.items() if k not in known and v not in (None, "")}
    return Described(
        attribution=_text(attribution).strip() or None if attribution is not None else None,
        captions=tuple(dict.fromkeys(captions)),
        metadata=rest,
    )


def _captions(value: Any) -> list[str]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        # A cell of a CSV holds several as a JSON list. A caption may also begin with a bracket.
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = [value]
    values = value if isinstance(value, list) else [value]
    texts = (_text(v).strip() for v in values if v is not None)
    return [text for text in texts if text]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _source(row: _Row, folder: str, shared: str) -> SourceFile | QuarantinedSource:
    uri = row.uri
    try:
        if row.problem is not None:
            raise UnreadableSourceError("bad_row", row.problem)
        if uri is None:
            raise UnreadableSourceError("empty_uri", "the row names no file")
        name, location = _resolve(uri, folder, shared)
        stored = stat_file(location)
        file = SourceFile(
            uri=storable_name(name),
            location=stored.location,
            size_bytes=stored.size_bytes,
            version=stored.version,
        )
    except UnreadableSourceError as error:
        if row.problem is not None or uri is None:
            return quarantined(row.place, error)
        name, _ = _resolve(uri, folder, shared)
        return quarantined(name, error)
    return describe(row.values).add_to(file)


def _resolve(uri: str, folder: str, shared: str) -> tuple[str, str]:
    """The name of a source, which says the same on every machine, and its location."""
    if is_url(uri):
        return uri, uri
    if not uri.startswith("/"):
        return posixpath.normpath(uri), f"{folder}/{uri}"
    path = PurePosixPath(uri)
    below = folder if path.is_relative_to(folder) else shared
    return str(path.relative_to(below)), uri


def _path_outside(row: _Row, folder: str) -> str | None:
    is_path = row.uri is not None and row.uri.startswith("/")
    return row.uri if is_path and not PurePosixPath(str(row.uri)).is_relative_to(folder) else None


def _read_rows(location: str, name: str) -> list[_Row]:
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    read = readers[PurePosixPath(name).suffix.lower()]
    try:
        with open_bytes(location) as reader, io.BufferedReader(reader) as file:
            return list(read(file, name))
    except (UnreadableSourceError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise SourceError(f"cannot read manifest {name}: {error}; mend it and run again") from error


def _read_csv(file: IO[bytes], name: str) -> Iterator[_Row]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        table = csv.DictReader(text, restkey=_TOO_MANY)
        for values in table:
            extra = values.pop(_TOO_MANY, None)
            problem = None if extra is None else "it has more cells than there are columns"
            yield _Row(f"{name}:{table.line_num}", values, problem)


def _read_jsonl(file: IO[bytes], name: str) -> Iterator[_Row]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield _Row(place, {}, f"not valid JSON: {error}")
            continue
        if isinstance(values, dict):
            yield _Row(place, values)
        else:
            yield _Row(place, {}, f"expected an object, found {type(values).__name__}")


def _read_parquet(file: IO[bytes], name: str) -> Iterator[_Row]:
    number = 0
    for batch in pq.ParquetFile(file).iter_batches():
        for values in batch.to_pylist():
            number += 1
            yield _Row(f"{name}:{number}", values)
