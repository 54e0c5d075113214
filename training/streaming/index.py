"""The index of samples: one row each, in columns that are mapped into memory and not read.

A million rows open in milliseconds, in every worker, and are held in memory once for all of them. What an index is made
from is written beside it piece by piece, so that a shard without an index of its own is read once, and a build that was
killed goes on.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from training.errors import DataError
from training.randomness import derive_seed
from training.streaming.describing import describe_shard
from training.streaming.rows import SCHEMA
from training.streaming.shards import (
    Shard,
    check_sizes,
    dataset_names,
    find_shards,
    fingerprint_of,
)
from training.streaming.storage import write_whole

Media = Literal["video", "image", "latents"]
_VERSION = "index-v2"


@dataclass(frozen=True, slots=True)
class Clip:
    """One sample of the shards: where its bytes are and the facts training uses. An image is a clip of one frame."""

    row: int
    """In the index."""
    clip_id: str
    location: str
    """Of the shard."""
    media: Media
    offset: int
    size_bytes: int
    caption: str
    original_caption: str | None
    """What came with the source, where something did."""
    num_frames: int
    fps: float
    original_height_px: int
    original_width_px: int
    subsets: tuple[str, ...]
    latent_shape_CHW: tuple[int, int, int]
    """Zeros unless `media` is `latents`."""
    text_offset: int
    text_size_bytes: int


class SampleIndex:
    """Every sample of one or several data sets, in the order of their shards."""

    def __init__(self, table: pa.Table, path: Path | None = None) -> None:
        self._table, self._path = table, path
        facts = json.loads(table.schema.metadata[b"index"])
        self.locations: list[str] = facts["locations"]
        self.identities: list[str] = facts["identities"]
        """Of each shard, which change with its bytes."""
        self.sizes_bytes: list[int | None] = facts["sizes_bytes"]
        """Of each shard, where its manifest says it."""
        self.datasets: list[str] = facts["datasets"]
        self.fingerprint: str = facts["fingerprint"]
        """Changes with the bytes or the order of any shard, not with where they lie."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A loader process maps the file anew."""
        return (_mapped, (self._path,)) if self._path else (SampleIndex, (self._table,))

    def __len__(self) -> int:
        return self._table.num_rows

    @classmethod
    def open(cls, datasets: Sequence[str | Path], folder: Path | None = None) -> "SampleIndex":
        """Index the data sets, or map the index of the same shards that lies in `folder` already.

        Raises:
            DataError: a data set has no shards, or one of them is broken or of another version.
        """
        names = dataset_names(datasets)
        if folder is not None:
            path = _path(folder, names, [fingerprint_of(name, folder) for name in names])
            if path.exists():
                index = _mapped(path)
                check_sizes(index.locations, index.sizes_bytes)
                return index
        found = [find_shards(name) for name in names]
        shards = [shard for mine, _ in found for shard in mine]
        fingerprints = [fingerprint for _, fingerprint in found]
        facts = {
            "datasets": names,
            "locations": [shard.location for shard in shards],
            "identities": [shard.identity for shard in shards],
            "sizes_bytes": [shard.entry and shard.entry.size_bytes for shard in shards],
            "fingerprint": f"{derive_seed(_VERSION, *fingerprints):016x}",
        }
        table = _build([mine for mine, _ in found], folder)
        table = table.replace_schema_metadata({"index": json.dumps(facts)})
        if not table.num_rows:
            raise DataError(
                f"no clips in {', '.join(names) or 'no data set'}; "
                "build the data set first, or loosen its filters"
            )
        if folder is None:
            return cls(table.combine_chunks())
        path = _path(folder, names, fingerprints)
        _write(path, table)
        return _mapped(path)

    def numbers(self, column: str) -> NDArray[np.int64]:
        """One of the columns of numbers."""
        array = self._table.column(column).combine_chunks()
        return np.asarray(array.to_numpy(zero_copy_only=False))

    def has_caption(self) -> NDArray[np.bool_]:
        return self.numbers("has_caption").astype(np.bool_)

    def in_subset(self, subset: str) -> NDArray[np.bool_]:
        rows = np.repeat(np.arange(len(self)), np.diff(self._subset_starts))
        chosen = np.zeros(len(self), np.bool_)
        chosen[rows[np.array(self._subset_names, np.object_) == subset]] = True
        return chosen

    def subsets(self) -> list[str]:
        """The names that any sample knows."""
        return sorted(set(self._subset_names))

    def clip_ids(self) -> list[str]:
        """Of all samples, in order."""
        return [self._texts["key"].at(row) or "" for row in range(len(self))]

    def clip(self, row: int) -> Clip:
        values, texts = self._columns, self._texts
        return Clip(
            row=row,
            clip_id=texts["key"].at(row) or "",
            location=self.locations[values["shard"].item(row)],
            media=cast("Media", texts["media"].at(row)),
            offset=values["offset"].item(row),
            size_bytes=values["size_bytes"].item(row),
            caption=texts["caption"].at(row) or "",
            original_caption=texts["original_caption"].at(row),
            num_frames=values["num_frames"].item(row),
            fps=values["fps"].item(row),
            original_height_px=values["height_px"].item(row),
            original_width_px=values["width_px"].item(row),
            subsets=tuple(
                self._subset_names[self._subset_starts[row] : self._subset_starts[row + 1]]
            ),
            latent_shape_CHW=(
                values["channels"].item(row),
                values["latent_height"].item(row),
                values["latent_width"].item(row),
            ),
            text_offset=values["text_offset"].item(row),
            text_size_bytes=values["text_size_bytes"].item(row),
        )

    @cached_property
    def _subset_starts(self) -> list[int]:
        """Where the names of each sample begin among `_subset_names`, and the end of the last."""
        return self._table.column("subsets").combine_chunks().offsets.to_pylist()

    @cached_property
    def _subset_names(self) -> list[str]:
        return self._table.column("subsets").combine_chunks().flatten().to_pylist()

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.int64]]:
        names = [
            f.name for f in SCHEMA if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)
        ]
        return {name: self.numbers(name) for name in ("dataset", "shard", *names)}

    @cached_property
    def _texts(self) -> dict[str, "_Texts"]:
        names = ("key", "media", "caption", "original_caption")
        return {name: _Texts(self._table.column(name).combine_chunks()) for name in names}


class _Texts:
    """A column of texts, each read where it lies: a scalar of Arrow costs ten times as much."""

    def __init__(self, array: pa.StringArray) -> None:
        _, offsets, data = array.buffers()
        self._offsets = np.frombuffer(offsets, np.int32)[array.offset :]
        self._data = memoryview(data or b"")
        self._is_known = None
        if array.null_count:
            self._is_known = array.is_valid().to_numpy(zero_copy_only=False)

    def at(self, row: int) -> str | None:
        if self._is_known is not None and not self._is_known.item(row):
            return None
        start, end = self._offsets.item(row), self._offsets.item(row + 1)
        return str(self._data[start:end], "utf-8")


def _path(folder: Path, names: Sequence[str], fingerprints: Sequence[str]) -> Path:
    # Where shards lie may change from run to run, which is why it is part of the file's name.
    return folder / f"{derive_seed(_VERSION, *names, *fingerprints):016x}.arrow"


def _mapped(path: Path) -> SampleIndex:
    return SampleIndex(_map(path), path)


def _build(datasets: Sequence[Sequence[Shard]], folder: Path | None) -> pa.Table:
    parts: list[pa.Table] = []
    number = 0
    for dataset, shards in enumerate(datasets):
        for shard in shards:
            rows = _piece(shard, folder)
            columns = {"dataset": (dataset, pa.int16()), "shard": (number, pa.int32())}
            for name, (value, kind) in columns.items():
                rows = rows.append_column(name, pa.repeat(pa.scalar(value, kind), rows.num_rows))
            parts.append(rows)
            number += 1
    return pa.concat_tables(parts) if parts else SCHEMA.empty_table()


def _piece(shard: Shard, folder: Path | None) -> pa.Table:
    if folder is None:
        return describe_shard(shard)
    seed = derive_seed(_VERSION, shard.kind, shard.location, shard.identity)
    path = folder / "pieces" / f"{seed:016x}.arrow"
    if not path.exists():
        _write(path, describe_shard(shard))
    return _map(path)


def _map(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _write(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        # In one batch, so that columns are mapped as they lie.
        writer.write_table(table.combine_chunks(), max_chunksize=max(1, table.num_rows))
    write_whole(path, buffer.getbuffer())
