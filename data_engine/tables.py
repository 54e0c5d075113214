"""Tables on disk: Parquet with a versioned schema, written atomically, read back as records.

A data set is a folder::

    config.json               the resolved configuration
    sources.parquet           readable source videos
    quarantine.parquet        sources that could not be read, with the reason
    undecodable.parquet       sources that stopped decoding later, with the reason
    cuts/<source_id>.parquet  what the decode pass of one source found; its frames lie beside it
    parts/<source_id>/        what was decoded of a long source, in parts, until all of it is
    scores/*.parquet          append-only: what the scorers of frames said, by clip, scorer and version
    captions/*.parquet        append-only: captions and what was wrong with them, by clip, captioner and version
    judgements/*.parquet      append-only: what was said of a caption, by clip, caption, judge and version
    encoded/??/*.mp4          survivors at training size; may be deleted once the shards are written
    scored_clips.parquet      every clip with its scores, no decision
    filtered_clips.parquet    every clip with the decision of the filters
    deduplicated_clips.parquet  those that were kept; near-duplicates rejected
    captioned_clips.parquet   those that were still kept, with captions
    sharded_clips.parquet     those that were still kept, after encoding
    shards/                   WebDataset tars and manifest.json
    throughput.json           how long each stage took when it last had work to do
    report/                   index.html and its pictures
    report/clips/             a place for each clip, by its id (`clip_pages.py`)

Each table stores a fingerprint of what it was made from, so that a step that is asked for the same
thing again can see that its work is done.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from data_engine.errors import TableError
from data_engine.schema import SCHEMA_VERSION, ClipRecord, QuarantinedSource, SourceVideo

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


@dataclass(frozen=True)
class DatasetPaths:
    """Where everything of one data set lies. The root is made absolute: workers have folders of their own."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.resolve())

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def sources(self) -> Path:
        return self.root / "sources.parquet"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine.parquet"

    @property
    def throughput(self) -> Path:
        return self.root / "throughput.json"

    @property
    def undecodable(self) -> Path:
        return self.root / "undecodable.parquet"

    def cuts(self, source_id: str) -> Path:
        return self.root / "cuts" / f"{source_id}.parquet"

    def frames(self, source_id: str) -> Path:
        return self.root / "cuts" / f"{source_id}.frames.parquet"

    def parts(self, source_id: str) -> Path:
        return self.root / "parts" / source_id

    @property
    def scores(self) -> Path:
        return self.root / "scores"

    @property
    def captions(self) -> Path:
        return self.root / "captions"

    @property
    def judgements(self) -> Path:
        return self.root / "judgements"

    @property
    def scored_clips(self) -> Path:
        return self.root / "scored_clips.parquet"

    @property
    def filtered_clips(self) -> Path:
        return self.root / "filtered_clips.parquet"

    @property
    def deduplicated_clips(self) -> Path:
        return self.root / "deduplicated_clips.parquet"

    def encoded(self, made_from: str) -> Path:
        """The MP4 file of one clip. Spread over folders, since there may be millions."""
        return self.root / "encoded" / made_from[:2] / f"{made_from}.mp4"

    @property
    def captioned_clips(self) -> Path:
        return self.root / "captioned_clips.parquet"

    @property
    def sharded_clips(self) -> Path:
        return self.root / "sharded_clips.parquet"

    @property
    def decided_clips(self) -> tuple[Path, ...]:
        """Tables of clips with decisions, in the order in which they are taken."""
        later = (self.deduplicated_clips, self.captioned_clips, self.sharded_clips)
        return self.filtered_clips, *later

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def clip_pages(self) -> Path:
        return self.report / "clips"


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
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    with write_atomically(path) as file:
        file.write(text.encode())


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
    path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema, made_from: str
) -> None:
    """Write rows with the fingerprint of what they were made from."""
    metadata = {"stiv.schema_version": str(SCHEMA_VERSION), "stiv.made_from": made_from}
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


def write_clips(path: Path, records: Iterable[ClipRecord], made_from: str) -> None:
    """Clips in an order that does not depend on which worker was faster."""
    ordered = sorted(records, key=lambda record: (record.source_id, record.start_s))
    write_table(path, (record.to_dict() for record in ordered), CLIPS, made_from)


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
    assert [f.name for f in fields(ClipRecord)] == CLIPS.names
    assert [f.name for f in fields(SourceVideo)] == SOURCES.names


_check_schema_covers_record()
