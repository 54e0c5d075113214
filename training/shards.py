"""Clip shards as an index: which clips there are, their facts, and where their bytes lie."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_engine.schema import (
    CAPTION_MEMBER,
    MANIFEST_NAME,
    RECORD_MEMBER,
    VIDEO_MEMBER,
    ClipRecord,
    SchemaError,
    ShardEntry,
    ShardManifest,
    ShardMember,
    ShardSample,
)
from training.errors import DataError
from training.randomness import derive_seed

MAX_MEMBER_BYTES = 2**30
"""A single file of a shard larger than this is taken for a broken index, not for a clip."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of the shards: where its bytes are and the facts training uses."""

    clip_id: str
    shard: Path
    shard_sha256: str
    video: ShardMember
    caption: str
    original_caption: str | None
    """What came with the source, where something did."""
    num_frames: int
    fps: float
    original_height_px: int
    original_width_px: int
    subsets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClipShards:
    """Every clip of one or several data sets, in the order of the manifests."""

    clips: tuple[Clip, ...]
    fingerprint: str
    """Changes with the bytes or the order of any shard, not with where they lie."""

    @classmethod
    def open(cls, dataset_dirs: Sequence[Path]) -> "ClipShards":
        """Index `DATASET/shards/manifest.json` of each data set.

        Raises:
            DataError: a manifest or shard is missing, broken or of another version.
        """
        clips: list[Clip] = []
        hashes: list[str] = []
        for dataset_dir in dataset_dirs:
            shards_dir = dataset_dir / "shards"
            for entry in _read_manifest(shards_dir / MANIFEST_NAME).shards:
                clips.extend(_read_shard(shards_dir / entry.name, entry))
                hashes.append(entry.sha256)
        if not clips:
            raise DataError(
                f"no clips in {', '.join(map(str, dataset_dirs)) or 'no data set'}; "
                "build the data set first, or loosen its filters"
            )
        return cls(tuple(clips), f"{derive_seed(*hashes):016x}")


def _read_manifest(path: Path) -> ShardManifest:
    try:
        return ShardManifest.from_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"no shards: {path} does not exist; build the data set first, or give its folder"
        ) from error
    except (SchemaError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a readable shard manifest: {error}") from error


def _read_shard(path: Path, entry: ShardEntry) -> list[Clip]:
    found_bytes = path.stat().st_size if path.exists() else None
    if found_bytes != entry.size_bytes:
        found = "is missing" if found_bytes is None else f"has {found_bytes} bytes"
        raise DataError(
            f"shard {path} {found}, its manifest says {entry.size_bytes} bytes; "
            "copy it again or build the data set again"
        )
    return [_read_clip(path, entry, sample) for sample in entry.samples]


def _read_clip(path: Path, entry: ShardEntry, sample: ShardSample) -> Clip:
    if missing := {VIDEO_MEMBER, RECORD_MEMBER} - sample.members.keys():
        raise DataError(f"clip {sample.clip_id} of {path} lacks {sorted(missing)}; build it again")
    record_json = read_member(path, sample.members[RECORD_MEMBER])
    try:
        record = ClipRecord.from_json(record_json)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"clip {sample.clip_id} of {path} has no readable record: {error}; "
            "build the data set again"
        ) from error
    caption = record.main_text
    if not caption and CAPTION_MEMBER in sample.members:
        caption = read_member(path, sample.members[CAPTION_MEMBER]).decode(errors="replace").strip()
    return Clip(
        clip_id=sample.clip_id,
        shard=path,
        shard_sha256=entry.sha256,
        video=sample.members[VIDEO_MEMBER],
        caption=caption,
        original_caption=next((c.text for c in record.captions if c.source == "original"), None),
        num_frames=record.num_frames,
        fps=record.fps,
        original_height_px=record.height_px,
        original_width_px=record.width_px,
        subsets=record.subsets,
    )


def read_member(path: Path, member: ShardMember) -> bytes:
    """The bytes of one file of a shard, by a single positioned read.

    Raises:
        DataError: the shard ends before the member does.
    """
    if member.size_bytes > MAX_MEMBER_BYTES:
        raise DataError(f"{path} indexes a member of {member.size_bytes} bytes; build it again")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(descriptor, member.size_bytes, member.offset)
    finally:
        os.close(descriptor)
    if len(data) != member.size_bytes:
        raise DataError(f"{path} ends inside a member at {member.offset}; copy the shard again")
    return data
