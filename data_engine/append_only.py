"""Append-only tables: folders of Parquet files, each written by one worker, with every row found by its key.

A worker writes a few clips at a time, so that little is lost with it. When a step is done, its small files become
one: millions of clips are then read from a few files, and no row is ever changed.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.tables import (
    CAPTION,
    CATEGORY,
    SCORE,
    check_version,
    fingerprint,
    is_made_from,
    write_atomically,
)

_FINDING = pa.struct([(name, pa.string()) for name in ("step", "reason", "detail")])

PROBED = pa.schema([(name, pa.string()) for name in ("file", "uri", "source", "reason", "detail")])
PROBED_KEY = ("file",)
SCORES = pa.schema(
    [
        ("clip_id", pa.string()),
        ("scorer", pa.string()),
        ("version", pa.string()),
        ("scores", pa.map_(pa.string(), SCORE)),
        ("texts", pa.list_(pa.string())),
        ("embedding", pa.list_(pa.float32())),
    ]
)
SCORES_KEY = ("clip_id", "scorer", "version")
CAPTIONS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("captioner", pa.string()),
        ("version", pa.string()),
        ("caption", CAPTION),
        ("finding", _FINDING),
    ]
)
CAPTIONS_KEY = ("clip_id", "captioner", "version")
JUDGEMENTS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("caption", pa.string()),
        ("judge", pa.string()),
        ("version", pa.string()),
        ("scores", pa.map_(pa.string(), SCORE)),
        ("category", CATEGORY),
        ("finding", _FINDING),
    ]
)
JUDGEMENTS_KEY = ("clip_id", "caption", "judge", "version")

_ROWS_IN_MEMORY = 8192
_SMALL_ROWS = 2**16
"""A file with more rows is never written again."""


def read_batches(
    folder: Path, made_from: str, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of the files that were made from exactly this, some thousands at a time."""
    for part in sorted(folder.glob("*.parquet")):
        if is_made_from(part, made_from):
            yield from _batches(part, columns)


def read_parts(
    folder: Path, made_from: str, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The same as plain values. A row whose file was about to be removed may come twice."""
    for batch in read_batches(folder, made_from, columns):
        yield from batch.to_pylist(maps_as_pydicts="strict")


def compact(folder: Path, made_from: str, key: Sequence[str]) -> None:
    """Put the small files that were made from exactly this into one, each row once.

    Killed between the new file and the removal of the old ones, it leaves rows in two files, which say the same; the
    next call removes them.
    """
    parts = [p for p in sorted(folder.glob("*.parquet")) if is_made_from(p, made_from)]
    small = [part for part in parts if pq.read_metadata(part).num_rows < _SMALL_ROWS]
    if len(small) < 2:
        return
    known: set[tuple[Any, ...]] = set()
    for part in parts:
        for batch in _batches(part, key) if part not in small else ():
            known.update(_keys(batch, key))
    whole = folder / f"{fingerprint('compacted', [part.name for part in small])}.parquet"
    with (
        write_atomically(whole) as file,
        pq.ParquetWriter(file, pq.read_schema(small[0])) as writer,
    ):
        for table in _gathered(_new_rows(small, key, known)):
            writer.write_table(table)
    for part in small:
        part.unlink()


def _new_rows(
    parts: Sequence[Path], key: Sequence[str], known: set[tuple[Any, ...]]
) -> Iterator[pa.RecordBatch]:
    """The rows whose key is not known yet; it is then."""
    for part in parts:
        for batch in _batches(part):
            keys = _keys(batch, key)
            fresh = [place for place, found in enumerate(keys) if found not in known]
            known.update(keys)
            yield batch if len(fresh) == len(keys) else batch.take(pa.array(fresh, pa.int64()))


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """As tables large enough to be read well, and small enough for the memory."""
    waiting: list[pa.RecordBatch] = []
    num_rows = 0
    for batch in batches:
        waiting.append(batch)
        num_rows += len(batch)
        if num_rows >= _ROWS_IN_MEMORY:
            yield pa.Table.from_batches(waiting)
            waiting.clear()
            num_rows = 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    check_version(path)
    with pq.ParquetFile(path) as file:
        names = None if columns is None else list(columns)
        yield from file.iter_batches(batch_size=_ROWS_IN_MEMORY, columns=names)


def _keys(batch: pa.RecordBatch, key: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(batch.column(name).to_pylist() for name in key), strict=True))
