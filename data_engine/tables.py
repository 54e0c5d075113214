"""Tables on disk: Parquet with a versioned schema, written atomically, read back as records.

Each table stores a fingerprint of what it was made from, so that a step that is asked for the same
thing again can see that its work is done.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from data_engine.dataset_paths import DatasetPaths as DatasetPaths
from data_engine.errors import TableError
from data_engine.schema import SCHEMA_VERSION, ClipRecord, QuarantinedSource, SourceVideo

# As `write_atomically` names a file that is not whole yet.
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")

ModelT = TypeVar("ModelT", bound=BaseModel)

SCORE = pa.struct([("value", pa.float64()), ("backend", pa.string())])
CAPTION = pa.struct(
    [
        ("text", pa.string()),
        ("source", pa.string()),
        ("model", pa.string()),
        ("prompt", pa.string()),
        ("num_tokens", pa.int64()),
    ]
)
_CROP = pa.struct([(name, pa.int64()) for name in ("left_px", "top_px", "width_px", "height_px")])
CATEGORY = pa.struct([("name", pa.string()), ("backend", pa.string())])
_TEXTS = pa.map_(pa.string(), pa.string())

CLIPS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("source_id", pa.string()),
        ("source_uri", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("fps", pa.float64()),
        ("num_frames", pa.int64()),
        ("shot_index", pa.int64()),
        ("height_px", pa.int64()),
        ("width_px", pa.int64()),
        ("orientation", pa.string()),
        ("scores", pa.map_(pa.string(), SCORE)),
        ("captions", pa.list_(CAPTION)),
        ("crop", _CROP),
        ("category", CATEGORY),
        ("subsets", pa.list_(pa.string())),
        ("duplicate_of", pa.string()),
        ("rejected_by", pa.string()),
        ("error", pa.string()),
        ("attribution", pa.string()),
        ("metadata", _TEXTS),
        ("schema_version", pa.int64()),
    ]
)
SOURCES = pa.schema(
    [
        ("source_id", pa.string()),
        ("uri", pa.string()),
        ("location", pa.string()),
        ("other_uris", pa.list_(pa.string())),
        ("size_bytes", pa.int64()),
        ("codec", pa.string()),
        ("height_px", pa.int64()),
        ("width_px", pa.int64()),
        ("sample_aspect_ratio", pa.float64()),
        ("rotation_deg", pa.int64()),
        ("fps", pa.float64()),
        ("is_variable_rate", pa.bool_()),
        ("colour_transfer", pa.string()),
        ("has_audio", pa.bool_()),
        ("duration_s", pa.float64()),
        ("attribution", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("metadata", _TEXTS),
    ]
)
QUARANTINE = pa.schema([("uri", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
FRAMES = pa.schema([("clip_id", pa.string()), ("time_s", pa.float64()), ("jpeg", pa.binary())])


def fingerprint(*parts: object) -> str:
    """A short hash of configurations and values: equal parts, equal fingerprint."""
    plain = [
        part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts
    ]
    text = json.dumps([SCHEMA_VERSION, plain], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def write_atomically(path: Path) -> Generator[IO[bytes]]:
    """A file that appears under its name only when it is complete and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def remove_orphans(*folders: Path) -> None:
    """Delete what processes that were killed left of files that they wrote. Nobody may be writing there."""
    for folder in folders:
        for path in folder.glob(".*"):
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with write_atomically(path) as file:
        file.write(text.encode())


def write_counts(path: Path, counts: Mapping[str, int]) -> None:
    """Counts by name; none leave no file. What is there already is not written again."""
    if not counts:
        path.unlink(missing_ok=True)
    elif counts != read_counts(path):
        write_text(path, json.dumps(counts, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_counts(path: Path) -> dict[str, int]:
    return json.loads(path.read_bytes()) if path.exists() else {}


def read_config(paths: DatasetPaths, kind: type[ModelT]) -> ModelT:
    """The configuration that a data set was made with.

    Raises:
        TableError: the folder holds no data set, or one of another version.
    """
    _require(paths.config)
    try:
        return kind.model_validate_json(paths.config.read_text())
    except ValidationError as error:
        raise TableError(
            f"{paths.config} does not fit this version ({error.error_count()} fields differ); "
            "curate again, or check out the commit that wrote it"
        ) from error


def write_table(
    path: Path,
    rows: Iterable[dict[str, Any]],
    schema: pa.Schema,
    made_from: str,
    num_damaged: int = 0,
) -> None:
    """Write rows with the fingerprint of what they were made from, and how many frames could not be used for them."""
    metadata = {
        "stiv.schema_version": str(SCHEMA_VERSION),
        "stiv.made_from": made_from,
        "stiv.num_damaged": str(num_damaged),
    }
    table = pa.Table.from_pylist(list(rows), schema=schema.with_metadata(metadata))
    with write_atomically(path) as file:
        pq.write_table(table, file)


def is_made_from(path: Path, made_from: str) -> bool:
    """Whether the table exists and was made from exactly this."""
    if not path.exists():
        return False
    return _metadata(path).get(b"stiv.made_from") == made_from.encode()


def made_from(path: Path) -> str:
    """The fingerprint stored in a table.

    Raises:
        TableError: the table does not exist.
    """
    _require(path)
    return _metadata(path)[b"stiv.made_from"].decode()


def num_damaged(path: Path) -> int:
    """How many frames of a source could not be used for the table of its clips."""
    return int(_metadata(path)[b"stiv.num_damaged"])


def read_table(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a table as plain values.

    Raises:
        TableError: the table does not exist, or another schema version wrote it.
    """
    return read_arrow(path, columns).to_pylist(maps_as_pydicts="strict")


def read_arrow(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A table as columns.

    Raises:
        TableError: the table does not exist, or another schema version wrote it.
    """
    check_version(path)
    return pq.read_table(path, columns=columns)


def check_version(path: Path) -> None:
    """See that a table is there, and that this code can read it.

    Raises:
        TableError: the table does not exist, or another schema version wrote it.
    """
    _require(path)
    found = _metadata(path).get(b"stiv.schema_version", b"none").decode()
    if found != str(SCHEMA_VERSION):
        raise TableError(
            f"{path} has schema version {found}, this code reads {SCHEMA_VERSION}; "
            "delete the data set and curate again, or check out the commit that wrote it"
        )


def read_clips(path: Path) -> list[ClipRecord]:
    return [ClipRecord.from_dict(row) for row in read_table(path)]


def write_clips(
    path: Path, records: Iterable[ClipRecord], made_from: str, num_damaged: int = 0
) -> None:
    """Clips in an order that does not depend on which worker was faster."""
    ordered = sorted(records, key=lambda record: (record.source_id, record.start_s))
    write_table(path, (record.to_dict() for record in ordered), CLIPS, made_from, num_damaged)


def read_sources(path: Path) -> list[SourceVideo]:
    return [SourceVideo.from_dict(row) for row in read_table(path)]


def read_quarantine(paths: DatasetPaths) -> list[QuarantinedSource]:
    """Sources that gave no clips, with the reason: unreadable ones and those that stopped decoding."""
    tables = [path for path in (paths.quarantine, paths.undecodable) if path.exists()]
    return [QuarantinedSource(**row) for path in tables for row in read_table(path)]


def rows_of(records: Iterable[SourceVideo | QuarantinedSource]) -> list[dict[str, Any]]:
    return [asdict(record) for record in records]


def load_clips(paths: DatasetPaths) -> list[ClipRecord]:
    """Every clip that was cut, each as the last step that touched it left it.

    Raises:
        TableError: the clips were never filtered.
    """
    first, *later = paths.decided_clips
    latest = {record.clip_id: record for record in read_clips(first)}
    for path in later:
        if path.exists():
            # A later table may be older than an earlier one; then only its still known clips count.
            latest.update({r.clip_id: r for r in read_clips(path) if _follows(latest, r)})
    return sorted(latest.values(), key=lambda record: (record.source_id, record.start_s))


def _follows(latest: dict[str, ClipRecord], record: ClipRecord) -> bool:
    before = latest.get(record.clip_id)
    return before is not None and before.rejected_by is None and before.error is None


def _require(path: Path) -> None:
    if not path.exists():
        raise TableError(f"{path} does not exist; run the step that writes it (`stiv curate`)")


def _metadata(path: Path) -> dict[bytes, bytes]:
    return pq.read_schema(path).metadata or {}


def _check_schema_covers_record() -> None:
    # A field that is added to the record and forgotten here would be lost without a word.
    assert {f.name for f in fields(ClipRecord)} | {"orientation"} == set(CLIPS.names)
    assert [f.name for f in fields(SourceVideo)] == SOURCES.names


_check_schema_covers_record()
