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
_VERSION = "index-v4"


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
    captions: tuple[str, ...]
    """The main one first."""
    caption_sources: tuple[str, ...]
    """Of each; `original` for what came with the source."""
    num_frames: int
    fps: float
    original_height_px: int
    original_width_px: int
    subsets: tuple[str, ...]
    latent_shape_CHW: tuple[int, int, int]
    """Zeros unless `media` is `latents`."""
    text_widths: tuple[int, int]
    """Of a token and of the pooled vector; zeros unless `media` is `latents`."""
    text_places: tuple[int, ...]
    """Of latents, three numbers for each caption (`rows.py`)."""

    @property
    def caption(self) -> str:
        """The main one; empty where there is none."""
        return self.captions[0] if self.captions else ""


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
        """One of the columns of numbers, where it lies."""
        return _numbers(self._table.column(column).chunk(0))

    def has_caption(self) -> NDArray[np.bool_]:
        array = self._table.column("has_caption").chunk(0)
        bits = np.frombuffer(array.buffers()[1], np.uint8)
        found = np.unpackbits(bits, count=array.offset + len(array), bitorder="little")
        return found[array.offset :].astype(np.bool_)

    def in_subset(self, subset: str) -> NDArray[np.bool_]:
        starts = self._lists["subsets"].starts
        rows = np.repeat(np.arange(len(self)), np.diff(starts))
        chosen = np.zeros(len(self), np.bool_)
        chosen[rows[self._values_of("subsets") == subset]] = True
        return chosen

    def subsets(self) -> list[str]:
        """The names that any sample knows."""
        return sorted(set(self._values_of("subsets")))

    def caption_sources(self) -> list[str]:
        """Those that any sample has a caption of."""
        return sorted(set(self._values_of("caption_sources")))

    def clip_ids(self) -> list[str]:
        """Of all samples, in order."""
        return [self._texts["key"].at(row) or "" for row in range(len(self))]

    def clip(self, row: int) -> Clip:
        columns, lists = self._columns, self._lists
        media = cast("Media", self._texts["media"].at(row))
        is_latents = media == "latents"
        return Clip(
            row=row,
            clip_id=self._texts["key"].at(row),
            location=self.locations[columns["shard"].item(row)],
            media=media,
            offset=columns["offset"].item(row),
            size_bytes=columns["size_bytes"].item(row),
            captions=lists["captions"].at(row),
            caption_sources=lists["caption_sources"].at(row),
            num_frames=columns["num_frames"].item(row),
            fps=columns["fps"].item(row),
            original_height_px=columns["height_px"].item(row),
            original_width_px=columns["width_px"].item(row),
            subsets=lists["subsets"].at(row),
            latent_shape_CHW=_triple(columns, row) if is_latents else (0, 0, 0),
            text_widths=(
                columns["text_width"].item(row),
                columns["pooled_text_width"].item(row),
            ),
            text_places=self._text_places(row) if is_latents else (),
        )

    def _text_places(self, row: int) -> tuple[int, ...]:
        starts, places = self._places
        return tuple(places[starts.item(row) : starts.item(row + 1)].tolist())

    @cached_property
    def _places(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        column = self._table.column("text_places").chunk(0)
        return _numbers(column.offsets), _numbers(column.values)

    def _values_of(self, column: str) -> NDArray[np.object_]:
        return np.array(self._table.column(column).chunk(0).flatten().to_pylist(), np.object_)

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.int64]]:
        names = [
            f.name for f in SCHEMA if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)
        ]
        return {name: self.numbers(name) for name in ("dataset", "shard", *names)}

    @cached_property
    def _texts(self) -> dict[str, "_Texts"]:
        names = ("key", "media")
        return {name: _Texts(self._table.column(name).chunk(0)) for name in names}

    @cached_property
    def _lists(self) -> dict[str, "_TextLists"]:
        names = ("captions", "caption_sources", "subsets")
        return {name: _TextLists(self._table.column(name).chunk(0)) for name in names}


def _numbers(array: pa.Array) -> NDArray[Any]:
    # `to_numpy` imports pandas, which takes longer than all else that is done before the first batch.
    return np.from_dlpack(array)


def _triple(columns: dict[str, NDArray[np.int64]], row: int) -> tuple[int, int, int]:
    return (
        columns["channels"].item(row),
        columns["latent_height"].item(row),
        columns["latent_width"].item(row),
    )


class _Texts:
    """A column of texts, each read where it lies: a scalar of Arrow costs ten times as much."""

    def __init__(self, array: pa.LargeStringArray) -> None:
        _, offsets, data = array.buffers()
        self._offsets = np.frombuffer(offsets or b"", np.int64)[array.offset :]
        self._data = memoryview(data or b"")

    def at(self, row: int) -> str:
        start, end = self._offsets.item(row), self._offsets.item(row + 1)
        return str(self._data[start:end], "utf-8")


class _TextLists:
    """A column of lists of texts."""

    def __init__(self, array: pa.ListArray) -> None:
        self.starts = _numbers(array.offsets)
        self._texts = _Texts(array.values)

    def at(self, row: int) -> tuple[str, ...]:
        start, end = self.starts.item(row), self.starts.item(row + 1)
        return tuple([self._texts.at(place) for place in range(start, end)])


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
